// Upstream ends the process when a file is missing (with exit code 0) or a cfg is wrong (with an abort). The seams
// (seams.cpp) turn that into an exception, which main() prints in one line.
#pragma once

#include <stdexcept>
#include <string>

namespace tessera::darknet {

struct UpstreamError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Unwinds to main(). Upstream's loader threads have nobody to catch it, so there the process ends with the message.
[[noreturn]] void fail_upstream(const std::string& message);

}  // namespace tessera::darknet
