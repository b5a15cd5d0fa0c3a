#include "kernels/pool.hpp"

#include <cfloat>
#include <vector>

#include "base/check.hpp"
#include "kernels/loops.hpp"

namespace tessera::kernels {
namespace {

Index floor_divide(Index a, Index b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }
Index ceil_divide(Index a, Index b) { return -floor_divide(-a, b); }

// Where the window of output o starts; Darknet truncates -pad / 2 towards zero.
Index window_begin(const PoolShape& shape, Index o) { return o * shape.stride - shape.pad / 2; }

// Outputs of [out) whose window column `d` lies inside [0, in_size).
Range outputs_inside(const PoolShape& shape, Range out, Index d, Index in_size) {
  const Index shift = shape.pad / 2 - d;
  return intersect(out, {ceil_divide(shift, shape.stride), floor_divide(in_size - 1 + shift, shape.stride) + 1});
}

// One row of outputs. `winner` is int so that value and place are selected by vector instructions of equal width.
template <int kStride>
void row_maximum(const PoolShape& shape, const ConstFloatView& input, Index n, Index c, Index y, Range x, float* best,
                 std::int32_t* winner) {
  const Index stride = kStride == 0 ? shape.stride : kStride;
  const Index width = x.size();
  std::fill(best, best + width, -FLT_MAX);
  std::fill(winner, winner + width, kNoWinner);
  for (int dy = 0; dy < shape.size; ++dy) {
    const Index in_y = window_begin(shape, y) + dy;
    if (in_y < 0 || in_y >= shape.in_y) continue;
    for (int dx = 0; dx < shape.size; ++dx) {
      const Range inside = outputs_inside(shape, x, dx, shape.in_x);
      if (inside.empty()) continue;
      const float* source = &input.at(n, c, in_y, window_begin(shape, inside.begin) + dx);
      float* __restrict value = best + (inside.begin - x.begin);
      std::int32_t* __restrict place = winner + (inside.begin - x.begin);
      const std::int32_t here = dy * shape.size + dx;
      const Index count = inside.size();
      for (Index i = 0; i < count; ++i) {
        const float candidate = source[i * stride];
        const bool better = candidate > value[i];
        value[i] = better ? candidate : value[i];
        place[i] = better ? here : place[i];
      }
    }
  }
}

// Adds each delta to the cell of its window row [i * size, (i + 1) * size) that won, if it is one of this row. A constant
// size makes neighbouring stores contiguous for the compiler.
template <int kSize>
void spread(int size, const float* __restrict delta, const std::uint8_t* __restrict place, int first_place, Index count,
            float* __restrict cells) {
  const int width = kSize == 0 ? size : kSize;
  for (Index i = 0; i < count; ++i)
    for (int dx = 0; dx < width; ++dx) cells[i * width + dx] += place[i] == first_place + dx ? delta[i] : 0.f;
}

// Windows that neither overlap nor leave gaps: each input cell belongs to one output at most, so that delta_in is
// written in one sweep.
void scatter_disjoint(const PoolShape& shape, const ConstFloatView& delta_out, const ConstIndexView& indices,
                      const FloatView& delta_in, Index n, Index c, Index y, Range x, bool accumulate) {
  float* target = &delta_in.at(n, c, y, x.begin);
  if (!accumulate) std::fill(target, target + x.size(), 0.f);
  const Index out_y = floor_divide(y + shape.pad / 2, shape.stride);
  if (out_y < 0 || out_y >= shape.out_y()) return;
  const int first_place = static_cast<int>(y - window_begin(shape, out_y)) * shape.size;
  const Range outs = pool_output_window(shape, x, shape.out_x());
  // Outputs whose whole window lies inside x, which is all but the first and the last.
  Range whole = outs;
  if (!whole.empty() && window_begin(shape, whole.begin) < x.begin) ++whole.begin;
  if (!whole.empty() && window_begin(shape, whole.end - 1) + shape.size > x.end) --whole.end;
  const auto add = [&](Index o) {
    const int dx = indices.at(n, c, out_y, o) - first_place;
    const Index in_x = window_begin(shape, o) + dx;
    if (dx >= 0 && dx < shape.size && in_x >= x.begin && in_x < x.end) target[in_x - x.begin] += delta_out.at(n, c, out_y, o);
  };
  for (Index o = outs.begin; o < whole.begin; ++o) add(o);
  for (Index o = whole.end; o < outs.end; ++o) add(o);
  if (whole.empty()) return;
  const auto run = shape.size == 2 ? spread<2> : shape.size == 3 ? spread<3> : spread<0>;
  run(shape.size, &delta_out.at(n, c, out_y, whole.begin), &indices.at(n, c, out_y, whole.begin), first_place, whole.size(),
      target + (window_begin(shape, whole.begin) - x.begin));
}

void scatter_plane(const PoolShape& shape, const ConstFloatView& delta_out, const ConstIndexView& indices,
                   const FloatView& delta_in, Index n, Index c, const Box& compute, bool accumulate) {
  if (!accumulate)
    for (Index y = compute.y.begin; y < compute.y.end; ++y) {
      float* row = &delta_in.at(n, c, y, compute.x.begin);
      std::fill(row, row + compute.x.size(), 0.f);
    }
  const Range out_y = pool_output_window(shape, compute.y, shape.out_y());
  const Range out_x = pool_output_window(shape, compute.x, shape.out_x());
  for (Index y = out_y.begin; y < out_y.end; ++y)
    for (Index x = out_x.begin; x < out_x.end; ++x) {
      const int place = indices.at(n, c, y, x);
      if (place == kNoWinner) continue;
      const Index in_y = window_begin(shape, y) + place / shape.size, in_x = window_begin(shape, x) + place % shape.size;
      if (in_y < compute.y.begin || in_y >= compute.y.end || in_x < compute.x.begin || in_x >= compute.x.end) continue;
      delta_in.at(n, c, in_y, in_x) += delta_out.at(n, c, y, x);
    }
}

void check_shape(const PoolShape& shape) {
  TESSERA_CHECK(shape.size >= 1 && shape.size <= kMaxPoolSize && shape.stride >= 1 && shape.pad >= 0,
                "size={} stride={} pad={}", shape.size, shape.stride, shape.pad);
}

}  // namespace

Range pool_input_window(const PoolShape& shape, Range out, Index in_size) {
  if (out.empty()) return {};
  const Range window = intersect(Range{window_begin(shape, out.begin), window_begin(shape, out.end - 1) + shape.size},
                                 Range{0, in_size});
  return window.empty() ? Range{} : window;
}

Range pool_output_window(const PoolShape& shape, Range in, Index out_size) {
  if (in.empty()) return {};
  const Index shift = shape.pad / 2;
  const Range window = intersect(Range{ceil_divide(in.begin + shift - shape.size + 1, shape.stride),
                                       floor_divide(in.end - 1 + shift, shape.stride) + 1},
                                 Range{0, out_size});
  return window.empty() ? Range{} : window;
}

void maxpool_forward(const PoolShape& shape, ConstFloatView input, FloatView output, IndexView indices, const Box& box,
                     base::ThreadPool& pool) {
  if (box.empty()) return;
  check_shape(shape);
  TESSERA_CHECK(output.box.contains(box) && (indices.data == nullptr || indices.box.contains(box)),
                "output={} indices={} box={}", to_string(output.box), to_string(indices.box), to_string(box));
  const Box needed{box.n, box.c, pool_input_window(shape, box.y, shape.in_y), pool_input_window(shape, box.x, shape.in_x)};
  TESSERA_CHECK(input.box.contains(needed), "input={} needed={}", to_string(input.box), to_string(needed));
  const auto row_function = shape.stride == 1 ? row_maximum<1> : shape.stride == 2 ? row_maximum<2> : row_maximum<0>;
  for_rows(box, pool, [&](Index n, Index c, Index y, Index rows) {
    std::vector<std::int32_t> winner(static_cast<std::size_t>(box.x.size()));
    for (Index row = y; row < y + rows; ++row) {
      row_function(shape, input, n, c, row, box.x, &output.at(n, c, row, box.x.begin), winner.data());
      if (indices.data == nullptr) continue;
      std::uint8_t* place = &indices.at(n, c, row, box.x.begin);
      for (std::size_t i = 0; i < winner.size(); ++i) place[i] = static_cast<std::uint8_t>(winner[i]);
    }
  });
}

void maxpool_backward(const PoolShape& shape, ConstFloatView delta_out, ConstIndexView indices, FloatView delta_in,
                      const Box& compute, bool accumulate, base::ThreadPool& pool) {
  if (compute.empty()) return;
  check_shape(shape);
  const Box needed{compute.n, compute.c, pool_output_window(shape, compute.y, shape.out_y()),
                   pool_output_window(shape, compute.x, shape.out_x())};
  TESSERA_CHECK(delta_in.box.contains(compute) && delta_out.box.contains(needed) && indices.box.contains(needed),
                "delta_in={} compute={} delta_out={} indices={} needed={}", to_string(delta_in.box), to_string(compute),
                to_string(delta_out.box), to_string(indices.box), to_string(needed));
  if (shape.size == shape.stride) {
    for_rows(compute, pool, [&](Index n, Index c, Index y, Index rows) {
      for (Index row = y; row < y + rows; ++row)
        scatter_disjoint(shape, delta_out, indices, delta_in, n, c, row, compute.x, accumulate);
    });
    return;
  }
  // Overlapping windows: a plane is one task, so that additions to a cell happen in the same order on every run.
  const Index channels = compute.c.size();
  pool.parallel_for(compute.n.size() * channels, [&](std::ptrdiff_t plane, int) {
    scatter_plane(shape, delta_out, indices, delta_in, compute.n.begin + plane / channels,
                  compute.c.begin + plane % channels, compute, accumulate);
  });
}

}  // namespace tessera::kernels
