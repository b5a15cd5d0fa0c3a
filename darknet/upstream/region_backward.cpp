#include "darknet/upstream/region_backward.hpp"

namespace tessera::darknet {

namespace {

// Multiplies `count` deltas with the slope of the logistic function, from its output values.
void undo_logistic(const float* output, float* delta, int count) {
  for (int i = 0; i < count; ++i) delta[i] *= (1 - output[i]) * output[i];
}

void backward_region(layer l, network net) {
  const int cells = l.w * l.h;
  const int entries = l.coords + l.classes + 1;  // per anchor: x y w h (more coordinates) objectness classes
  for (int anchor = 0; anchor < l.batch * l.n; ++anchor) {
    const long first = static_cast<long>(anchor) * entries * cells;
    const auto undo = [&](int entry, int count) {
      const long at = first + static_cast<long>(entry) * cells;
      undo_logistic(l.output + at, l.delta + at, count * cells);
    };
    undo(0, 2);
    if (l.coords > 4) undo(4, l.coords - 4);
    if (!l.background) undo(l.coords, 1);
  }
  if (!net.delta) return;
  const long inputs = static_cast<long>(l.batch) * l.inputs;
  for (long i = 0; i < inputs; ++i) net.delta[i] += l.delta[i];
}

}  // namespace

void enable_region_backward(network* net) {
  for (int i = 0; i < net->n; ++i)
    if (net->layers[i].type == REGION) net->layers[i].backward = backward_region;
}

}  // namespace tessera::darknet
