// The line per iteration that tools of Darknet's users parse.
#pragma once

#include <cstdint>
#include <string>

namespace tessera::observe {

struct IterationRecord {
  std::uint64_t iteration = 0;
  double loss = 0, average_loss = 0;
  double rate = 0;     // learning rate of the update just made
  double seconds = 0;  // for this iteration
  std::uint64_t images = 0;
  double hours_left = 0;
};

// "N: loss, avg avg loss, rate rate, s seconds, images images, h hours left", without a line end.
std::string log_line(const IterationRecord& record);

// Plain decimals (no exponent, which old scripts do not parse) with at least six digits after the point and at
// least four significant ones: a rate in burn-in never reads 0.000000.
std::string decimal(double value);

}  // namespace tessera::observe
