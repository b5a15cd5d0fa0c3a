// Non-maximum suppression: of two boxes of a class whose overlap exceeds the threshold the weaker one goes. The overlap is IoU, or
// IoU less (squared distance of centres / squared diagonal of the enclosing box) to some power.
#include <algorithm>
#include <cmath>

#include "plugins/layers/yolo.hpp"

namespace tessera::layers {
namespace {

float suppression_overlap(const box& a, const box& b, const YoloSettings& s) {
  const float plain = iou(a, b);
  if (s.suppression == Suppression::kDefault) return plain;
  const auto outer = [](float a_centre, float a_size, float b_centre, float b_size) {
    return std::max(a_centre + a_size / 2, b_centre + b_size / 2) - std::min(a_centre - a_size / 2, b_centre - b_size / 2);
  };
  const float w = outer(a.x, a.w, b.x, b.w), h = outer(a.y, a.h, b.y, b.h), diagonal = w * w + h * h;
  if (diagonal == 0) return plain;
  const float distance = (a.x - b.x) * (a.x - b.x) + (a.y - b.y) * (a.y - b.y);
  return plain - std::pow(distance / diagonal, s.suppression == Suppression::kGreedy ? 0.6f : s.suppression_exponent);
}

}  // namespace

void Yolo::suppress(detection* found, int count, int classes, float threshold) const {
  std::vector<detection*> order;
  for (int i = 0; i < count; ++i)
    if (found[i].objectness != 0) order.push_back(found + i);
  for (int c = 0; c < classes; ++c) {
    std::stable_sort(order.begin(), order.end(), [&](const detection* a, const detection* b) { return a->prob[c] > b->prob[c]; });
    for (std::size_t i = 0; i < order.size(); ++i)
      for (std::size_t j = i + 1; j < order.size() && order[i]->prob[c] > 0; ++j)
        if (order[j]->prob[c] > 0 && suppression_overlap(order[i]->bbox, order[j]->bbox, s_) > threshold) order[j]->prob[c] = 0;
  }
}

}  // namespace tessera::layers
