#include "darknet/upstream/stock_engine.hpp"

#include <ctime>
#include <fstream>
#include <string>

#include <darknet.h>
#include "base/clock.hpp"

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

::data upstream_rows(const data::Batch& batch) {
  const auto matrix_of = [&](std::span<float* const> rows, std::size_t columns) {
    return matrix{batch.shape.rows, static_cast<int>(columns), const_cast<float**>(rows.data())};  // read only
  };
  ::data result{};
  result.X = matrix_of(batch.inputs, batch.shape.input_columns());
  result.y = matrix_of(batch.truths, static_cast<std::size_t>(batch.shape.truth_columns));
  return result;
}

class StockEngine : public Engine {
 public:
  base::Result<float> train_batch(network* net, const data::Batch& batch, const NextBatch&) override {
    const base::TimePoint start = base::Clock::now();
    const float loss = train_network(net, upstream_rows(batch));
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

std::unique_ptr<Engine> make_stock_engine() { return std::make_unique<StockEngine>(); }

}  // namespace tessera::darknet
