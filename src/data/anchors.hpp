// Anchors from labelled boxes: k-means with 1 - IoU as the distance (Redmon and Farhadi 2017, YOLO9000, section 2). Pure.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.hpp"

namespace tessera::data {

struct BoxSize {
  double width = 0, height = 0;
};

// IoU of two boxes with the same centre.
double size_iou(const BoxSize& a, const BoxSize& b);

struct Anchors {
  std::vector<BoxSize> sizes;  // rising area
  double mean_iou = 0;         // of every box with its best anchor
};

// The best of several runs from different starts (k-means++), drawn from `seed`.
[[nodiscard]] base::Result<Anchors> find_anchors(std::span<const BoxSize> boxes, int count, std::uint64_t seed);

}  // namespace tessera::data
