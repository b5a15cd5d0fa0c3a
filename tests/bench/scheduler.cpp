// The split scheduler over a large cluster: 1,000 devices, 100 layers. Google Benchmark.
#include <benchmark/benchmark.h>

#include <cmath>

#include "plan/split_scheduler.hpp"
#include "tests/support/random.hpp"

namespace tessera::plan {
namespace {

constexpr int kDevices = 1000, kLayers = 100;

void schedule(benchmark::State& state,
              base::Result<SplitAssignment> (*solve)(const SplitNetwork&, const SplitSetting&, std::span<const SplitDevice>)) {
  testing::Rng rng(1);
  SplitNetwork network;
  SplitCut cut;
  for (cut.depth = 1; cut.depth <= kLayers; ++cut.depth) {
    cut.work += 1e8 * (0.5 + rng.uniform());
    cut.activation_bytes = 1e6 * std::pow(0.97, cut.depth) * (0.5 + rng.uniform());
    cut.parameter_bytes += 1e4 * std::pow(1.05, cut.depth);
    network.cuts.push_back(cut);
  }
  network.work = cut.work;
  const SplitSetting setting{1e14, 1e9, 20, 1, 1};
  std::vector<SplitDevice> devices(kDevices);
  for (SplitDevice& device : devices) {
    device.speed = 1e9 * std::pow(100.0, rng.uniform());
    device.batch = rng.between(1, 32);
  }
  double seconds = 0;
  for (auto _ : state) seconds = solve(network, setting, devices)->seconds;
  state.counters["round_s"] = seconds;
}
BENCHMARK_CAPTURE(schedule, exact, schedule_split)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(schedule, alternation, alternate)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace tessera::plan

BENCHMARK_MAIN();
