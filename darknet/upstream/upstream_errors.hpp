// Upstream ends the process when a file is missing (with exit code 0) or a cfg is wrong (with an abort). The seams
// (seams.cpp) turn that into an exception, which main() prints in one line.
#pragma once

#include <stdexcept>

namespace tessera::darknet {

struct UpstreamError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace tessera::darknet
