#include "darknet/training/engine.hpp"

#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <string>

#include "base/clock.hpp"
#include "darknet/commands/cache_file.hpp"
#include "plugins/distributed/distributed_engine.hpp"

namespace tessera::darknet {
namespace {

// Bytes of a "VmRSS: 123 kB" line of /proc/self/status.
std::uint64_t status_bytes(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    std::uint64_t kilobytes = 0;
    if (word == key && status >> kilobytes) return kilobytes * 1024;
  }
  return 0;
}

// Upstream's own code, on this machine alone.
class StockEngine : public Engine {
 public:
  base::Result<float> train_batch(network* net, const data& batch, const NextBatch&) override {
    const base::TimePoint start = base::Clock::now();
    const float loss = train_network(net, batch);
    busy_seconds_ += base::seconds_between(start, base::Clock::now());
    return loss;
  }

  std::vector<observe::DeviceReport> device_reports() override {
    const base::TimePoint now = base::Clock::now();
    observe::DeviceReport report;
    report.name = "this machine";
    report.busy_seconds = busy_seconds_;
    report.waiting_seconds = std::max(0.0, base::seconds_between(since_, now) - busy_seconds_);
    report.memory_bytes = status_bytes("VmRSS:");
    report.memory_peak_bytes = status_bytes("VmHWM:");
    busy_seconds_ = 0;
    since_ = now;
    return {report};
  }

  base::Status detach(network*) override { return {}; }

 private:
  double busy_seconds_ = 0;
  base::TimePoint since_ = base::Clock::now();
};

}  // namespace

EngineOptions engine_options(const Arguments& arguments, std::uint64_t seed) {
  return {arguments.program, arguments.has("insecure"), arguments.has("verbose"), seed, arguments.text("backend"), backend_cache_file()};
}

base::Result<std::unique_ptr<Engine>> attach(network* net, const DistributedSection& section, const EngineOptions& options) {
  if (options.backend == kStockBackend) {
    if (section.present) fmt::print(stderr, "-backend stock: [distributed] has no effect, everything runs on upstream's code\n");
    return std::make_unique<StockEngine>();
  }
  TESSERA_ASSIGN(std::unique_ptr<Engine> engine, distributed::attach_engine(net, section, options));
  if (!engine) engine = std::make_unique<StockEngine>();
  return engine;
}

base::Result<std::unique_ptr<Inference>> attach_inference(network* net, const DistributedSection& section, const EngineOptions& options) {
  if (options.backend == kStockBackend) return std::unique_ptr<Inference>();
  return distributed::attach_inference(net, section, options);
}

}  // namespace tessera::darknet
