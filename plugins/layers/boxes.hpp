// Overlap of boxes and the box losses that follow from it: IoU, GIoU (arXiv:1902.09630), DIoU and CIoU (arXiv:1911.08287).
#pragma once

#include <string_view>

#include <ctime>

#include <darknet.h>

namespace tessera::layers {

enum class BoxLoss { kMse, kIou, kGiou, kDiou, kCiou };

// Of a name that the cfg check let pass.
BoxLoss box_loss(std::string_view name);

float iou(const box& a, const box& b);
// The overlap measure of a loss; kMse: IoU.
float overlap(const box& a, const box& b, BoxLoss kind);

// How much the overlap measure grows with each number of `prediction`, as AlexeyAB's Darknet has it: the gradients of its
// measure, but with edges instead of sizes (twice the true derivative by w and h) and, for the distance of centres, the sign
// of the enclosing box's part the other way round by x and y.
struct BoxGradient {
  float x = 0, y = 0, w = 0, h = 0;
};
BoxGradient overlap_gradient(const box& prediction, const box& truth, BoxLoss kind);

}  // namespace tessera::layers
