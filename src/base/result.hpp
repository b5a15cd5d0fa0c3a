// What may fail in normal operation (a dead peer, a timeout, a bad file, a bad frame) returns Result<T>.
#pragma once

#include <fmt/format.h>

#include <string>
#include <tl/expected.hpp>
#include <utility>

namespace tessera::base {

enum class ErrorCode {
  kInvalidArgument,  // the caller's cfg, command line or file says something impossible
  kNotFound,         // a file or device that should be there is not
  kIo,               // reading, writing, binding or connecting failed
  kTimeout,          // a deadline passed
  kPeerLost,         // a device died, hung or was cut off
  kProtocol,         // a frame or handshake that cannot be accepted
  kOutOfMemory,      // a plan needs more memory than the device has
  kAborted,          // the work was abandoned on request
  kNotFinite,        // a gradient or loss is no number any more
};

// `message` is one line a user can act on: what, where (file:line, device), what to do.
struct Error {
  ErrorCode code = ErrorCode::kInvalidArgument;
  std::string message;
};

template <typename T>
using Result = tl::expected<T, Error>;

using Status = Result<void>;

template <typename... Args>
[[nodiscard]] tl::unexpected<Error> error(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  return tl::unexpected<Error>(Error{code, fmt::format(format, std::forward<Args>(args)...)});
}

}  // namespace tessera::base

#define TESSERA_CONCAT_(a, b) a##b
#define TESSERA_CONCAT(a, b) TESSERA_CONCAT_(a, b)

// TESSERA_TRY(expression): returns the error of a Status from the enclosing function.
#define TESSERA_TRY(expression)                                                      \
  do {                                                                               \
    auto tessera_status_ = (expression);                                             \
    if (!tessera_status_) return tl::unexpected(std::move(tessera_status_).error()); \
  } while (false)

// TESSERA_ASSIGN(auto value, expression): unwraps a Result<T> or returns its error.
#define TESSERA_ASSIGN(declaration, expression)                                                                                        \
  auto TESSERA_CONCAT(tessera_result_, __LINE__) = (expression);                                                                       \
  if (!TESSERA_CONCAT(tessera_result_, __LINE__)) return tl::unexpected(std::move(TESSERA_CONCAT(tessera_result_, __LINE__)).error()); \
  declaration = std::move(*TESSERA_CONCAT(tessera_result_, __LINE__))
