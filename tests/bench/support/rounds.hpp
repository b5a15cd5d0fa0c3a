// Runs the variants of a network in turns, so that all meet the same machine.
#pragma once

#include <string>

#include "tests/bench/support/report.hpp"

namespace tessera::bench {

struct Rounds {
  int repeat = 1;
  int threads = 1;     // of sgemm
  int timeout_s = 60;  // most for one run
  std::string folder;  // for what sgemm prints
};

// Fills the variants' runs and the speed of sgemm. A run that fails is named on stderr and counted in `failures`; the
// others go on. Errors: sgemm cannot be measured.
[[nodiscard]] base::Status run_rounds(NetworkReport& report, const Rounds& rounds, int& failures);

}  // namespace tessera::bench
