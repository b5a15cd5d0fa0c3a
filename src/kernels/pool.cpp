#include "kernels/pool.hpp"

#include <bit>
#include <cfloat>
#include <vector>

#include "base/check.hpp"
#include "kernels/loops.hpp"
#include "kernels/vectors.hpp"

namespace tessera::kernels {
namespace {

using geometry::floor_divide;

// Selections by masks. Which cell wins is a coin toss, so that a branch, which compilers use for the cells that are left over
// when a loop is vectorised, would be predicted wrongly half of the time.
std::int32_t select(bool condition, std::int32_t yes, std::int32_t no) { return no ^ ((no ^ yes) & -static_cast<std::int32_t>(condition)); }
float value_if(bool condition, float value) {
  return std::bit_cast<float>(std::bit_cast<std::int32_t>(value) & -static_cast<std::int32_t>(condition));
}

// Outputs of [out) whose whole window lies inside [0, in_size).
Range outputs_within(const geometry::Window& window, Range out, Index in_size) {
  return intersect(tap_range(window, 0, out, {0, in_size}), tap_range(window, window.kernel - 1, out, {0, in_size}));
}

// Any windows, clipped to the image; `place` may be null.
void clipped_maximum(const PoolShape& shape, const ConstFloatView& input, Index n, Index c, Index y, Range x, float* best,
                     std::uint8_t* place) {
  const Range in_y = input_range(shape.rows(), {y, y + 1}, shape.in_y);
  for (Index o = x.begin; o < x.end; ++o) {
    const Range in_x = input_range(shape.columns(), {o, o + 1}, shape.in_x);
    float value = -FLT_MAX;
    int winner = kNoWinner;
    for (Index iy = in_y.begin; iy < in_y.end; ++iy)
      for (Index ix = in_x.begin; ix < in_x.end; ++ix) {
        const float candidate = input.at(n, c, iy, ix);
        if (!(candidate > value)) continue;
        value = candidate;
        winner = static_cast<int>((iy - shape.rows().begin(y)) * shape.size + ix - shape.columns().begin(o));
      }
    *best++ = value;
    if (place != nullptr) *place++ = static_cast<std::uint8_t>(winner);
  }
}

// kVector windows of 2 x 2 cells that lie in the image, side by side; the first starts at `source`.
template <int kStride>
void pair_maximum(const float* source, Index row, float* best, std::uint8_t* place) {
  Floats value = Floats{} - FLT_MAX;
  Integers winner = Integers{} + kNoWinner;
  for (int dy = 0; dy < 2; ++dy, source += row) {
    const Floats low = load(source), high = load(source + (kStride == 1 ? 1 : kVector));
    // Two short rows at a time are not the one long stream that hardware prefetches by itself.
    if (kStride == 2) __builtin_prefetch(source + 4 * row);
    for (int dx = 0; dx < 2; ++dx) {
      const Floats candidate = kStride == 1 ? (dx == 0 ? low : high) : dx == 0 ? even(low, high) : odd(low, high);
      const Integers better = candidate > value;
      value = better ? candidate : value;
      winner = better ? Integers{} + (2 * dy + dx) : winner;
    }
  }
  store(value, best);
  if (place == nullptr) return;
  const Bytes places = __builtin_convertvector(winner, Bytes);
  std::memcpy(place, &places, sizeof places);
}

// `count` of them, at least kVector: the last ones are done again together with some before them.
template <int kStride>
void pair_maxima(const float* source, Index row, Index count, float* best, std::uint8_t* place) {
  for (Index i = 0; i < count; i += kVector) {
    const Index at = std::min(i, count - kVector);
    pair_maximum<kStride>(source + at * kStride, row, best + at, place == nullptr ? nullptr : place + at);
  }
}

// `count` windows of any size that lie in the image: one sweep over the outputs for each place of the window.
template <int kStride>
void window_maximum(const PoolShape& shape, const float* source, Index row, Index count, float* __restrict best,
                    std::int32_t* __restrict winner, std::uint8_t* __restrict place) {
  const Index stride = kStride == 0 ? shape.columns().stride : kStride;
  std::fill(best, best + count, -FLT_MAX);
  std::fill(winner, winner + count, kNoWinner);
  for (std::int32_t d = 0; d < shape.size * shape.size; ++d) {
    const float* __restrict cells = source + d / shape.size * row + d % shape.size;
    for (Index i = 0; i < count; ++i) {
      const float candidate = cells[i * stride];
      const bool better = candidate > best[i];
      best[i] = better ? candidate : best[i];
      winner[i] = select(better, d, winner[i]);
    }
  }
  if (place == nullptr) return;
  for (Index i = 0; i < count; ++i) place[i] = static_cast<std::uint8_t>(winner[i]);
}

// Gives each delta to the cell of its window row [i * size, (i + 1) * size) that won, if it is one of this row. A constant
// size makes neighbouring stores contiguous for the compiler.
template <int kSize, bool kAccumulate>
void spread(int size, const float* __restrict delta, const std::uint8_t* __restrict place, std::int32_t first_place, Index count,
            float* __restrict cells) {
  const int width = kSize == 0 ? size : kSize;
  for (Index i = 0; i < count; ++i)
    for (int dx = 0; dx < width; ++dx) {
      const float value = value_if(place[i] == first_place + dx, delta[i]);
      if constexpr (kAccumulate)
        cells[i * width + dx] += value;
      else
        cells[i * width + dx] = value;
    }
}

template <bool kAccumulate>
auto spread_of(int size) {
  return size == 2 ? spread<2, kAccumulate> : size == 3 ? spread<3, kAccumulate> : spread<0, kAccumulate>;
}

// Windows that neither overlap nor leave gaps: each input cell belongs to one output at most, so that delta_in is
// written in one sweep.
void scatter_disjoint(const PoolShape& shape, const ConstFloatView& delta_out, const ConstIndexView& indices, const FloatView& delta_in,
                      Index n, Index c, Index y, Index rows, Range x, bool accumulate) {
  const auto run = accumulate ? spread_of<true>(shape.size) : spread_of<false>(shape.size);
  const Range outs = output_range(shape.columns(), x, shape.out_x());
  // Outputs whose whole window lies inside x, which is all but the first and the last.
  Range whole = outs;
  if (!whole.empty() && shape.columns().begin(whole.begin) < x.begin) ++whole.begin;
  if (!whole.empty() && shape.columns().begin(whole.end - 1) + shape.size > x.end) --whole.end;
  const Index before = whole.empty() ? x.size() : shape.columns().begin(whole.begin) - x.begin;
  const Index inside = whole.empty() ? 0 : whole.size() * shape.size;
  for (Index row = y; row < y + rows; ++row) {
    float* target = &delta_in.at(n, c, row, x.begin);
    const Index out_y = floor_divide(row + shape.pad / 2, shape.stride);
    const bool seen = out_y >= 0 && out_y < shape.out_y();
    if (!accumulate) {
      std::fill(target, target + (seen ? before : x.size()), 0.f);
      if (seen) std::fill(target + before + inside, target + x.size(), 0.f);
    }
    if (!seen) continue;
    const int first_place = static_cast<int>(row - shape.rows().begin(out_y)) * shape.size;
    const auto add = [&](Index o) {
      const int dx = indices.at(n, c, out_y, o) - first_place;
      const Index in_x = shape.columns().begin(o) + dx;
      if (dx >= 0 && dx < shape.size && in_x >= x.begin && in_x < x.end) target[in_x - x.begin] += delta_out.at(n, c, out_y, o);
    };
    for (Index o = outs.begin; o < whole.begin; ++o) add(o);
    for (Index o = whole.end; o < outs.end; ++o) add(o);
    if (inside > 0)
      run(shape.size, &delta_out.at(n, c, out_y, whole.begin), &indices.at(n, c, out_y, whole.begin), first_place, whole.size(),
          target + before);
  }
}

// Windows at every cell (stride 1): each input cell collects from the outputs that see it, in their order.
void gather_overlapping(const PoolShape& shape, const ConstFloatView& delta_out, const ConstIndexView& indices, const FloatView& delta_in,
                        Index n, Index c, Index y, Index rows, Range x, bool accumulate) {
  const Index shift = shape.pad / 2;
  for (Index row = y; row < y + rows; ++row) {
    float* target = &delta_in.at(n, c, row, x.begin);
    if (!accumulate) std::fill(target, target + x.size(), 0.f);
    for (int dy = shape.size - 1; dy >= 0; --dy) {
      const Index out_y = row + shift - dy;
      if (out_y < 0 || out_y >= shape.out_y()) continue;
      for (int dx = shape.size - 1; dx >= 0; --dx) {
        const Range outs = intersect(Range{x.begin + shift - dx, x.end + shift - dx}, Range{0, shape.out_x()});
        if (outs.empty()) continue;
        const std::int32_t here = dy * shape.size + dx;
        const float* __restrict delta = &delta_out.at(n, c, out_y, outs.begin);
        const std::uint8_t* __restrict place = &indices.at(n, c, out_y, outs.begin);
        float* __restrict cells = target + (outs.begin - shift + dx - x.begin);
        const Index count = outs.size();
        for (Index i = 0; i < count; ++i) cells[i] += value_if(place[i] == here, delta[i]);
      }
    }
  }
}

void scatter_plane(const PoolShape& shape, const ConstFloatView& delta_out, const ConstIndexView& indices, const FloatView& delta_in,
                   Index n, Index c, const Box& compute, bool accumulate) {
  if (!accumulate)
    for (Index y = compute.y.begin; y < compute.y.end; ++y) {
      float* row = &delta_in.at(n, c, y, compute.x.begin);
      std::fill(row, row + compute.x.size(), 0.f);
    }
  const Range out_y = output_range(shape.rows(), compute.y, shape.out_y());
  const Range out_x = output_range(shape.columns(), compute.x, shape.out_x());
  for (Index y = out_y.begin; y < out_y.end; ++y)
    for (Index x = out_x.begin; x < out_x.end; ++x) {
      const int place = indices.at(n, c, y, x);
      if (place == kNoWinner) continue;
      const Index in_y = shape.rows().begin(y) + place / shape.size, in_x = shape.columns().begin(x) + place % shape.size;
      if (in_y < compute.y.begin || in_y >= compute.y.end || in_x < compute.x.begin || in_x >= compute.x.end) continue;
      delta_in.at(n, c, in_y, in_x) += delta_out.at(n, c, y, x);
    }
}

void check_shape(const PoolShape& shape) {
  TESSERA_CHECK(shape.size >= 1 && shape.size <= kMaxPoolSize && shape.stride >= 1 && shape.stride_x >= 0 && shape.pad >= 0,
                "size={} stride={} pad={}", shape.size, shape.stride, shape.pad);
}

// The input cells that a box of the output sees.
Box input_window(const PoolShape& shape, const Box& box) {
  return {box.n, box.c, input_range(shape.rows(), box.y, shape.in_y), input_range(shape.columns(), box.x, shape.in_x)};
}

void check_forward(const PoolShape& shape, const ConstFloatView& input, const FloatView& output, const IndexView& indices, const Box& box) {
  check_shape(shape);
  TESSERA_CHECK(output.box.contains(box) && (indices.data == nullptr || indices.box.contains(box)), "output={} indices={} box={}",
                to_string(output.box), to_string(indices.box), to_string(box));
  const Box needed = input_window(shape, box);
  TESSERA_CHECK(input.box.contains(needed), "input={} needed={}", to_string(input.box), to_string(needed));
}

// What the rows of a box have in common.
class RowMaxima {
 public:
  RowMaxima(const PoolShape& shape, const Box& box)
      : shape_(shape),
        box_(box),
        whole_y_(outputs_within(shape.rows(), box.y, shape.in_y)),
        whole_x_(outputs_within(shape.columns(), box.x, shape.in_x)),
        stride_(shape.columns().stride),
        pairs_(shape.size == 2 && stride_ <= 2 && whole_x_.size() >= kVector) {}

  // For operator(), one per thread.
  std::vector<std::int32_t> scratch() const { return std::vector<std::int32_t>(pairs_ ? 0 : static_cast<std::size_t>(box_.x.size())); }

  // One row of the output from an input that holds its window.
  void operator()(const ConstFloatView& input, const FloatView& output, const IndexView& indices, Index n, Index c, Index row,
                  std::vector<std::int32_t>& scratch) const {
    float* best = &output.at(n, c, row, box_.x.begin);
    std::uint8_t* place = indices.data == nullptr ? nullptr : &indices.at(n, c, row, box_.x.begin);
    const auto clipped = [&](Range x) {
      const Index skip = x.begin - box_.x.begin;
      clipped_maximum(shape_, input, n, c, row, x, best + skip, place == nullptr ? nullptr : place + skip);
    };
    if (!whole_y_.contains({row, row + 1}) || whole_x_.empty()) return clipped(box_.x);
    clipped({box_.x.begin, whole_x_.begin});
    clipped({whole_x_.end, box_.x.end});
    const Index skip = whole_x_.begin - box_.x.begin, count = whole_x_.size(), row_floats = input.box.x.size();
    const float* source = &input.at(n, c, shape_.rows().begin(row), shape_.columns().begin(whole_x_.begin));
    if (place != nullptr) place += skip;
    if (pairs_)
      (stride_ == 1 ? pair_maxima<1> : pair_maxima<2>)(source, row_floats, count, best + skip, place);
    else
      (stride_ == 1   ? window_maximum<1>
       : stride_ == 2 ? window_maximum<2>
                      : window_maximum<0>)(shape_, source, row_floats, count, best + skip, scratch.data(), place);
  }

 private:
  const PoolShape& shape_;
  const Box& box_;
  const Range whole_y_, whole_x_;
  const Index stride_;  // along the row
  const bool pairs_;
};

}  // namespace

void maxpool_forward(const PoolShape& shape, ConstFloatView input, FloatView output, IndexView indices, const Box& box,
                     base::ThreadPool& pool) {
  if (box.empty()) return;
  check_forward(shape, input, output, indices, box);
  const RowMaxima maxima(shape, box);
  for_rows(box, pool, [&](Index n, Index c, Index y, Index rows) {
    auto scratch = maxima.scratch();
    for (Index row = y; row < y + rows; ++row) maxima(input, output, indices, n, c, row, scratch);
  });
}

void normalize_maxpool_forward(const PoolShape& shape, ConstFloatView x, const NormParameters& parameters, FloatView output,
                               IndexView indices, const Box& box, base::ThreadPool& pool) {
  if (box.empty()) return;
  check_forward(shape, x, output, indices, box);
  const RowMaxima maxima(shape, box);
  const Range columns = input_range(shape.columns(), box.x, shape.in_x);
  for_rows(box, pool, [&](Index n, Index c, Index y, Index rows) {
    auto scratch = maxima.scratch();
    std::vector<float> active(static_cast<std::size_t>(shape.size * columns.size()));  // the window of one row of the output
    for (Index row = y; row < y + rows; ++row) {
      const Box window{{n, n + 1}, {c, c + 1}, input_range(shape.rows(), {row, row + 1}, shape.in_y), columns};
      const FloatView cells{active.data(), window};
      for (Index in_y = window.y.begin; in_y < window.y.end && !columns.empty(); ++in_y)
        normalize_activate_cells(&x.at(n, c, in_y, columns.begin), parameters, c, &cells.at(n, c, in_y, columns.begin), columns.size());
      maxima(cells, output, indices, n, c, row, scratch);
    }
  });
}

void maxpool_backward(const PoolShape& shape, ConstFloatView delta_out, ConstIndexView indices, FloatView delta_in, const Box& compute,
                      bool accumulate, base::ThreadPool& pool) {
  if (compute.empty()) return;
  check_shape(shape);
  const Box needed{compute.n, compute.c, output_range(shape.rows(), compute.y, shape.out_y()),
                   output_range(shape.columns(), compute.x, shape.out_x())};
  TESSERA_CHECK(delta_in.box.contains(compute) && delta_out.box.contains(needed) && indices.box.contains(needed),
                "delta_in={} compute={} delta_out={} indices={} needed={}", to_string(delta_in.box), to_string(compute),
                to_string(delta_out.box), to_string(indices.box), to_string(needed));
  if (shape.columns().stride == shape.stride && (shape.size == shape.stride || shape.stride == 1)) {
    const auto planes = shape.size == shape.stride ? scatter_disjoint : gather_overlapping;
    for_rows(compute, pool, [&](Index n, Index c, Index y, Index rows) {
      planes(shape, delta_out, indices, delta_in, n, c, y, rows, compute.x, accumulate);
    });
    return;
  }
  // Windows with overlaps or gaps: a plane is one task, so that additions to a cell happen in the same order on every run.
  const Index channels = compute.c.size();
  pool.parallel_for(compute.n.size() * channels, [&](std::ptrdiff_t plane, int) {
    scatter_plane(shape, delta_out, indices, delta_in, compute.n.begin + plane / channels, compute.c.begin + plane % channels, compute,
                  accumulate);
  });
}

}  // namespace tessera::kernels
