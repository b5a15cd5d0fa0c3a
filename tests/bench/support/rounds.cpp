#include "tests/bench/support/rounds.hpp"

#include "tests/bench/support/sgemm.hpp"

namespace tessera::bench {

base::Status run_rounds(NetworkReport& report, const Rounds& rounds, int& failures) {
  std::vector<double> peaks;
  for (int round = 0; round < rounds.repeat; ++round) {
    TESSERA_ASSIGN(const double peak, measure_sgemm_apart(rounds.folder, rounds.threads));
    peaks.push_back(peak);
    for (std::size_t i = 0; i < report.variants.size(); ++i) {
      // Each round begins with another one, so that none always runs on a machine warmed up by the same.
      Variant& variant = report.variants[(i + static_cast<std::size_t>(round)) % report.variants.size()];
      if (!variant.absent.empty()) continue;
      const auto run = run_command(variant.command, base::Milliseconds(rounds.timeout_s * 1000LL));
      variant.runs.push_back(run ? std::optional(*run) : std::nullopt);
      failures += run ? 0 : 1;
      fmt::print(stderr, "{}, {}, {}/{}: {}\n", report.title, variant.name, round + 1, rounds.repeat,
                 run ? fmt::format("{:.3f} s per {}", seconds_of(*run), report.unit) : "failed: " + run.error().message);
    }
  }
  report.sgemm_flops = median(peaks);
  return {};
}

}  // namespace tessera::bench
