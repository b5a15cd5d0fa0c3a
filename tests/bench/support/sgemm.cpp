#include "tests/bench/support/sgemm.hpp"

#include <cblas.h>
#include <openblas_config.h>

#include <cstdlib>
#include <filesystem>
#include <vector>

#include "base/clock.hpp"
#include "tests/bench/support/process.hpp"

namespace tessera::bench {

double measure_sgemm(int threads) {
  constexpr int kSize = 1536, kTimes = 4;
  const int before = openblas_get_num_threads();  // the blas backend sets one, once
  openblas_set_num_threads(threads);
  const std::vector<float> a(kSize * kSize, .5f), b(kSize * kSize, .25f);
  std::vector<float> c(kSize * kSize);
  double best = 0;
  for (int i = 0; i < kTimes; ++i) {
    const auto begin = base::Clock::now();
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, kSize, kSize, kSize, 1, a.data(), kSize, b.data(), kSize, 0, c.data(), kSize);
    best = std::max(best, 2. * kSize * kSize * kSize / base::seconds_between(begin, base::Clock::now()));
  }
  openblas_set_num_threads(before);
  return best;
}

base::Result<double> measure_sgemm_apart(const std::string& folder, int threads) {
  const Command command{{std::filesystem::read_symlink("/proc/self/exe").string(), kMeasureSgemm, "--threads", fmt::to_string(threads)},
                        {},
                        folder,
                        "",
                        folder + "/sgemm.log"};
  if (const base::Status status = run_to_end(command); !status)
    return base::error(base::ErrorCode::kIo, "sgemm could not be measured: {}", status.error().message);
  return std::strtod(last_line(command.log).c_str(), nullptr);
}

}  // namespace tessera::bench
