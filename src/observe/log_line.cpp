#include "observe/log_line.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace tessera::observe {

std::string decimal(double value) {
  if (value == 0 || !std::isfinite(value)) return fmt::format("{:.6f}", value);
  const int leading_zeros = std::max(0, -static_cast<int>(std::floor(std::log10(std::abs(value)))));
  return fmt::format("{:.{}f}", value, std::max(6, leading_zeros + 3));
}

std::string log_line(const IterationRecord& r) {
  return fmt::format("{}: {:.6f}, {:.6f} avg loss, {} rate, {:.3f} seconds, {} images, {:.2f} hours left", r.iteration, r.loss,
                     r.average_loss, decimal(r.rate), r.seconds, r.images, r.hours_left);
}

}  // namespace tessera::observe
