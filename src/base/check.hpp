// Invariant checks. A failed check is a bug in this program, never a bad input: received data, files and
// cfgs are validated with Result<T> instead (result.hpp). Active in every build.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace tessera::base {

// Thrown by a failed TESSERA_CHECK, so that tests can observe it; nothing else catches it.
struct CheckFailure : std::logic_error {
  using std::logic_error::logic_error;
};

[[noreturn]] inline void fail_check(const char* file, int line, const char* condition, const std::string& values) {
  throw CheckFailure(fmt::format("{}:{}: check failed: {}{}{}", file, line, condition, values.empty() ? "" : ": ", values));
}

}  // namespace tessera::base

// TESSERA_CHECK(a == b, "a={} b={}", a, b): the format string and values are what the message shows.
#define TESSERA_CHECK(condition, ...)                                                                        \
  do {                                                                                                       \
    if (!(condition)) ::tessera::base::fail_check(__FILE__, __LINE__, #condition, fmt::format(__VA_ARGS__)); \
  } while (false)
