#include "plugins/layers/boxes.hpp"

#include <algorithm>
#include <cmath>

namespace tessera::layers {
namespace {

constexpr float kPi = 3.14159265358979f;

struct Edges {
  float left, right, top, bottom;
};

Edges edges(const box& b) { return {b.x - b.w / 2, b.x + b.w / 2, b.y - b.h / 2, b.y + b.h / 2}; }

// Along one axis: the length of the overlap (negative: the gap) and of the enclosing box.
struct Axis {
  float inner, outer;
};
Axis axis(float a_from, float a_to, float b_from, float b_to) {
  return {std::min(a_to, b_to) - std::max(a_from, b_from), std::max(a_to, b_to) - std::min(a_from, b_from)};
}

float square(float x) { return x * x; }

float intersection(const Axis& x, const Axis& y) { return x.inner < 0 || y.inner < 0 ? 0 : x.inner * y.inner; }

// ((bottom * d_top) - (top * d_bottom)) / bottom^2: the derivative of top / bottom.
float quotient(float top, float d_top, float bottom, float d_bottom) { return (bottom * d_top - top * d_bottom) / square(bottom); }

}  // namespace

BoxLoss box_loss(std::string_view name) {
  return name == "iou"    ? BoxLoss::kIou
         : name == "giou" ? BoxLoss::kGiou
         : name == "diou" ? BoxLoss::kDiou
         : name == "ciou" ? BoxLoss::kCiou
                          : BoxLoss::kMse;
}

float iou(const box& a, const box& b) {
  const Edges p = edges(a), t = edges(b);
  const float shared = intersection(axis(p.left, p.right, t.left, t.right), axis(p.top, p.bottom, t.top, t.bottom));
  const float all = a.w * a.h + b.w * b.h - shared;
  return shared == 0 || all == 0 ? 0 : shared / all;
}

float overlap(const box& a, const box& b, BoxLoss kind) {
  const float plain = iou(a, b);
  if (kind == BoxLoss::kMse || kind == BoxLoss::kIou) return plain;
  const Edges p = edges(a), t = edges(b);
  const Axis x = axis(p.left, p.right, t.left, t.right), y = axis(p.top, p.bottom, t.top, t.bottom);
  if (kind == BoxLoss::kGiou) {
    const float enclosing = x.outer * y.outer, all = a.w * a.h + b.w * b.h - intersection(x, y);
    return enclosing == 0 ? plain : plain - (enclosing - all) / enclosing;
  }
  const float diagonal = square(x.outer) + square(y.outer), distance = square(a.x - b.x) + square(a.y - b.y);
  if (diagonal == 0) return plain;
  if (kind == BoxLoss::kDiou) return plain - std::pow(distance / diagonal, 0.6f);
  const float v = 4 / square(kPi) * square(std::atan(b.w / b.h) - std::atan(a.w / a.h));
  return plain - (distance / diagonal + v * v / (1 - plain + v + 1e-6f));
}

BoxGradient overlap_gradient(const box& pred, const box& truth, BoxLoss kind) {
  const Edges p = edges(pred), t = edges(truth);
  const Axis x = axis(p.left, p.right, t.left, t.right), y = axis(p.top, p.bottom, t.top, t.bottom);
  const float shared = x.inner * y.inner, all = pred.w * pred.h + truth.w * truth.h - shared;
  const bool apart = x.inner <= 0 || y.inner <= 0;
  const float enclosing = x.outer * y.outer;

  // By one edge: how the prediction's area, the shared and the enclosing area grow with it.
  const auto by_edge = [&](float d_own, float d_shared, float d_enclosing) {
    const float d_all = d_own - d_shared;
    float slope = all > 0 ? quotient(shared, d_shared, all, d_all) : 0;
    if (kind != BoxLoss::kGiou || !(enclosing > 0)) return slope;
    const float filled = quotient(all, d_all, enclosing, d_enclosing);
    return apart ? filled : slope + filled;
  };
  const float left = by_edge(-pred.h, p.left > t.left ? -y.inner : 0, p.left < t.left ? -y.outer : 0);
  const float right = by_edge(pred.h, p.right < t.right ? y.inner : 0, p.right > t.right ? y.outer : 0);
  const float top = by_edge(-pred.w, p.top > t.top ? -x.inner : 0, p.top < t.top ? -x.outer : 0);
  const float bottom = by_edge(pred.w, p.bottom < t.bottom ? x.inner : 0, p.bottom > t.bottom ? x.outer : 0);
  BoxGradient g{left + right, top + bottom, right - left, bottom - top};
  if (kind != BoxLoss::kDiou && kind != BoxLoss::kCiou) return g;

  const float diagonal = square(x.outer) + square(y.outer), distance = square(pred.x - truth.x) + square(pred.y - truth.y);
  if (apart) g = {};
  if (!(diagonal > 0)) return g;
  // The enclosing side moves with the edges that are the prediction's.
  const float right_ours = p.right > t.right, left_ours = p.left<t.left, bottom_ours = p.bottom> t.bottom, top_ours = p.top < t.top;
  g.x += (2 * (truth.x - pred.x) * diagonal - 2 * x.outer * (right_ours - left_ours) * distance) / square(diagonal);
  g.y += (2 * (truth.y - pred.y) * diagonal - 2 * y.outer * (bottom_ours - top_ours) * distance) / square(diagonal);
  g.w += x.outer * (right_ours + left_ours) * distance / square(diagonal);
  g.h += y.outer * (bottom_ours + top_ours) * distance / square(diagonal);
  if (kind == BoxLoss::kDiou) return g;
  const float turn = std::atan(truth.w / truth.h) - std::atan(pred.w / pred.h);
  const float v = 4 / square(kPi) * square(turn), weight = v / (1 - shared / all + v + 1e-6f);
  g.w += weight * 8 / square(kPi) * turn * pred.h;
  g.h -= weight * 8 / square(kPi) * turn * pred.w;
  return g;
}

}  // namespace tessera::layers
