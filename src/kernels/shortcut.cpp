#include "base/check.hpp"
#include "geometry/pairs.hpp"
#include "kernels/elementwise.hpp"
#include "kernels/loops.hpp"

namespace tessera::kernels {
namespace {

using geometry::Pairs;
using geometry::Range;

Pairs pairs_y(const ShortcutShape& shape) { return {shape.from.y, shape.out.y}; }
Pairs pairs_x(const ShortcutShape& shape) { return {shape.from.x, shape.out.x}; }
Index paired_channels(const ShortcutShape& shape) { return std::min(shape.from.c, shape.out.c); }

Box whole_or_empty(const Box& box) { return box.empty() ? Box{} : box; }

}  // namespace

Box shortcut_from_box(const ShortcutShape& shape, const Box& out_box) {
  return whole_or_empty({out_box.n, intersect(out_box.c, Range{0, paired_channels(shape)}), pairs_y(shape).from_range(out_box.y),
                         pairs_x(shape).from_range(out_box.x)});
}

Box shortcut_out_box(const ShortcutShape& shape, const Box& from_box) {
  return whole_or_empty({from_box.n, intersect(from_box.c, Range{0, paired_channels(shape)}), pairs_y(shape).out_range(from_box.y),
                         pairs_x(shape).out_range(from_box.x)});
}

void shortcut_forward(const ShortcutShape& shape, ConstFloatView input, ConstFloatView from, FloatView output, const Box& box,
                      base::ThreadPool& pool) {
  if (box.empty()) return;
  TESSERA_CHECK(input.box.contains(box) && output.box.contains(box) && from.box.contains(shortcut_from_box(shape, box)),
                "input={} output={} from={} box={}", to_string(input.box), to_string(output.box), to_string(from.box), to_string(box));
  const Pairs py = pairs_y(shape), px = pairs_x(shape);
  const Range in_x = px.among(box.x, px.sample);
  for_rows(box, pool, [&](Index n, Index c, Index y, Index rows) {
    for (Index row = y; row < y + rows; ++row) {
      const float* source = &input.at(n, c, row, box.x.begin);
      float* target = &output.at(n, c, row, box.x.begin);
      if (source != target) std::copy(source, source + box.x.size(), target);
      const bool paired = c < paired_channels(shape) && row % py.sample == 0 && row / py.sample < py.count;
      if (!paired || in_x.empty()) continue;
      const float* other = &from.at(n, c, row / py.sample * py.stride, in_x.begin * px.stride);
      target += in_x.begin * px.sample - box.x.begin;
      const Index count = in_x.size();
      for (Index i = 0; i < count; ++i) target[i * px.sample] = shape.alpha * target[i * px.sample] + shape.beta * other[i * px.stride];
    }
  });
}

void shortcut_backward_input(const ShortcutShape& shape, ConstFloatView delta_out, FloatView delta_in, const Box& box, bool accumulate,
                             base::ThreadPool& pool) {
  if (box.empty()) return;
  if (!accumulate) fill(delta_in, box, 0, pool);
  add(delta_out, delta_in, box, shape.alpha, pool);
}

void shortcut_backward_from(const ShortcutShape& shape, ConstFloatView delta_out, FloatView delta_from, const Box& box, bool accumulate,
                            base::ThreadPool& pool) {
  if (box.empty()) return;
  TESSERA_CHECK(delta_from.box.contains(box) && delta_out.box.contains(shortcut_out_box(shape, box)), "delta_from={} delta_out={} box={}",
                to_string(delta_from.box), to_string(delta_out.box), to_string(box));
  const Pairs py = pairs_y(shape), px = pairs_x(shape);
  const Range in_x = px.among(box.x, px.stride);
  for_rows(box, pool, [&](Index n, Index c, Index y, Index rows) {
    for (Index row = y; row < y + rows; ++row) {
      float* target = &delta_from.at(n, c, row, box.x.begin);
      if (!accumulate) std::fill(target, target + box.x.size(), 0.f);
      const bool paired = c < paired_channels(shape) && row % py.stride == 0 && row / py.stride < py.count;
      if (!paired || in_x.empty()) continue;
      const float* delta = &delta_out.at(n, c, row / py.stride * py.sample, in_x.begin * px.sample);
      target += in_x.begin * px.stride - box.x.begin;
      const Index count = in_x.size();
      for (Index i = 0; i < count; ++i) target[i * px.stride] += shape.beta * delta[i * px.sample];
    }
  });
}

}  // namespace tessera::kernels
