// The ratios between the variants of a training, and the bars they are held to.
#pragma once

#include <optional>
#include <string>

#include "tests/bench/support/report.hpp"
#include "tests/bench/support/training_variants.hpp"

namespace tessera::bench {

// Set for a network at its own size and batch.
struct Bars {
  std::optional<double> stock, blas_stock;  // at least so many times as fast
  std::optional<double> torch;              // likewise
  std::optional<double> floor;              // at most so many times as long
  std::optional<double> memory;             // of one process, at most this share of stock's
  std::optional<double> workers;            // speed, at least this share of one process's with as many threads
  std::optional<double> device_memory;      // of the largest worker and the coordinator, at most this share of stock's
  std::optional<double> recompute_memory;   // likewise with recompute=on ...
  std::optional<double> recompute_time;     // ... at most so many times as long as without

  bool any() const;
};

Bars bars_of(const std::string& network);

// Fills report.comparisons from the variants' runs.
void compare_training(NetworkReport& report, const Roles& roles, const Bars& bars);

}  // namespace tessera::bench
