// The picture of a training: loss and mAP over the iterations.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.hpp"

namespace tessera::observe {

struct ChartPoint {
  std::uint64_t iteration = 0;
  double value = 0;
};

struct ChartData {
  std::string title;
  std::uint64_t iterations = 0;       // right end of the axis
  std::vector<ChartPoint> loss;       // average loss, rising iterations
  std::vector<ChartPoint> precision;  // mAP (or accuracy) in 0..1
  std::string precision_name = "mAP";
};

// Keeps a long training's chart small: drops every second point once there are more than `most`.
void thin(std::vector<ChartPoint>& points, std::size_t most);

// The upper end of the loss axis: what nearly all points lie below, rounded up to 1, 2 or 5 times a power of ten.
double loss_ceiling(const std::vector<ChartPoint>& loss);

// Draws a PNG and puts it in place of `path` in one step.
[[nodiscard]] base::Status write_chart(const ChartData& data, const std::string& path);

}  // namespace tessera::observe
