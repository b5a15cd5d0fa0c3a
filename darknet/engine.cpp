#include "darknet/engine.hpp"

#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <string>

#include "base/clock.hpp"
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

// Stock Darknet on this machine alone.
class StockEngine : public Engine {
 public:
  base::Result<float> train_batch(network* net, const data& batch) override {
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

base::Result<std::unique_ptr<Engine>> attach(network* net, const DistributedSection& section,
                                             const EngineOptions& options) {
  if (section.present) return distributed::attach_distributed(net, section, options);
  return std::make_unique<StockEngine>();
}

}  // namespace tessera::darknet
