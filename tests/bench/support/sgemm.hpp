// How fast OpenBLAS multiplies large matrices here: what the speed of convolutions is compared with.
#pragma once

#include <string>

#include "base/result.hpp"

namespace tessera::bench {

// The option by which a benchmark program calls itself for measure_sgemm_apart(); it then prints measure_sgemm().
inline constexpr const char* kMeasureSgemm = "--measure-sgemm";

// Operations per second, the best of a few times. OpenBLAS keeps the number of threads it had.
double measure_sgemm(int threads);

// The same in a process of its own, so that OpenBLAS's memory is not in this one. Logs to a file in `folder`.
[[nodiscard]] base::Result<double> measure_sgemm_apart(const std::string& folder, int threads);

}  // namespace tessera::bench
