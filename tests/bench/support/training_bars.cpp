#include "tests/bench/support/training_bars.hpp"

namespace tessera::bench {

bool Bars::any() const {
  return stock || blas_stock || torch || floor || memory || workers || device_memory || recompute_memory || recompute_time;
}

Bars bars_of(const std::string& network) {
  Bars bars;
  if (network == "yolov2-tiny") {
    bars.stock = 15;
    bars.blas_stock = 8;
    bars.torch = bars.floor = 1.5;
    bars.memory = 0.5;
    bars.workers = 0.85;
  } else if (network == "yolov2-tiny-64") {
    bars.workers = 0.85;
  } else if (network == "yolov2-16") {
    bars.device_memory = 0.125;
    bars.recompute_memory = 0.1;
    bars.recompute_time = 1.35;
  }
  return bars;
}

void compare_training(NetworkReport& report, const Roles& roles, const Bars& bars) {
  const Variant *stock = roles.stock.empty() ? nullptr : report.find(roles.stock.front()), *fastest = report.find(roles.fastest);
  for (const std::string& name : {roles.onednn, roles.blas}) {
    const Variant* ours = report.find(name);
    const auto& times_stock = name == roles.blas ? bars.blas_stock : bars.stock;
    for (const std::string& of : roles.stock)
      compare(report, fmt::format("{}: times as fast as {}", name, of), "x", report.find(of), seconds_of, ours, seconds_of, Bar::kAtLeast,
              times_stock);
    if (stock != nullptr)
      compare(report, fmt::format("{}: memory as a share of stock's", name), "", ours, process_bytes, stock, process_bytes, Bar::kAtMost,
              bars.memory);
  }
  for (const std::string& of : roles.torch)
    compare(report, fmt::format("{}: times as fast as {}", roles.fastest, of), "x", report.find(of), seconds_of, fastest, seconds_of,
            Bar::kAtLeast, of == roles.torch.front() ? bars.torch : std::nullopt);
  const Variant* floor = report.find(roles.floor);
  if (floor != nullptr)
    compare(report, fmt::format("{}: times as long as {}", roles.fastest, roles.floor), "x", fastest, seconds_of, floor, seconds_of,
            Bar::kAtMost, bars.floor);
  for (const std::string& exact : roles.exact_floors)
    compare(report, fmt::format("{}: times as long as {}", roles.fastest, exact), "x", fastest, seconds_of, report.find(exact), seconds_of,
            Bar::kAtMost, std::nullopt);

  const Variant *workers = report.find(roles.workers), *as_many = report.find(roles.as_many_threads);
  compare(report, fmt::format("{}: speed as a share of {}", roles.workers, roles.as_many_threads), "", as_many, seconds_of, workers,
          seconds_of, Bar::kAtLeast, bars.workers);
  if (as_many != fastest)
    compare(report, fmt::format("{}: speed as a share of {}, {} threads", roles.workers, roles.fastest, fastest->threads), "", fastest,
            seconds_of, workers, seconds_of, Bar::kAtLeast, std::nullopt);
  for (const auto& [name, bar] : {std::pair{roles.workers, bars.device_memory}, {roles.recompute, bars.recompute_memory}}) {
    const Variant* variant = report.find(name);
    if (stock == nullptr) break;
    compare(report, name + ": largest worker's memory as a share of stock's", "", variant, worker_bytes, stock, process_bytes, Bar::kAtMost,
            bar);
    compare(report, name + ": coordinator's memory as a share of stock's", "", variant, process_bytes, stock, process_bytes, Bar::kAtMost,
            bar);
  }
  compare(report, roles.recompute + ": times as long as without", "x", report.find(roles.recompute), seconds_of, workers, seconds_of,
          Bar::kAtMost, bars.recompute_time);
}

}  // namespace tessera::bench
