#include "kernels/elementwise.hpp"

#include <cstring>

#include "base/check.hpp"
#include "kernels/loops.hpp"

namespace tessera::kernels {
namespace {

void check_holds(const Box& view, const Box& box) { TESSERA_CHECK(view.contains(box), "view={} box={}", to_string(view), to_string(box)); }

Box shift_channels(Box box, Index by) { return {box.n, {box.c.begin + by, box.c.end + by}, box.y, box.x}; }

// Offset in bytes of a cell in the contiguous copy of a box.
std::size_t packed_offset(const Box& box, Index n, Index c, Index y) {
  const geometry::View<const float> whole{nullptr, box};
  return static_cast<std::size_t>(whole.offset(n, c, y, box.x.begin)) * sizeof(float);
}

}  // namespace

void fill(FloatView view, const Box& box, float value, base::ThreadPool& pool) {
  if (box.empty()) return;
  check_holds(view.box, box);
  const auto run = [&](Index n, Index c, Index y, Index length) {
    float* cells = &view.at(n, c, y, box.x.begin);
    std::fill(cells, cells + length, value);
  };
  for_runs(box, pool, run, view);
}

void copy(ConstFloatView source, FloatView target, const Box& box, base::ThreadPool& pool) { route_forward(source, 0, target, box, pool); }

void add(ConstFloatView source, FloatView target, const Box& box, float factor, base::ThreadPool& pool) {
  if (box.empty()) return;
  check_holds(source.box, box);
  check_holds(target.box, box);
  const auto run = [&](Index n, Index c, Index y, Index length) {
    const float* __restrict from = &source.at(n, c, y, box.x.begin);
    float* __restrict to = &target.at(n, c, y, box.x.begin);
    for (Index i = 0; i < length; ++i) to[i] += factor * from[i];
  };
  for_runs(box, pool, run, source, target);
}

void pack(ConstFloatView source, const Box& box, std::span<std::byte> bytes, base::ThreadPool& pool) {
  TESSERA_CHECK(bytes.size() == static_cast<std::size_t>(box.elements()) * sizeof(float), "bytes={} box={}", bytes.size(), to_string(box));
  if (box.empty()) return;
  check_holds(source.box, box);
  const auto run = [&](Index n, Index c, Index y, Index length) {
    std::memcpy(bytes.data() + packed_offset(box, n, c, y), &source.at(n, c, y, box.x.begin),
                static_cast<std::size_t>(length) * sizeof(float));
  };
  for_runs(box, pool, run, source);
}

void unpack(std::span<const std::byte> bytes, FloatView target, const Box& box, base::ThreadPool& pool) {
  TESSERA_CHECK(bytes.size() == static_cast<std::size_t>(box.elements()) * sizeof(float), "bytes={} box={}", bytes.size(), to_string(box));
  if (box.empty()) return;
  check_holds(target.box, box);
  const auto run = [&](Index n, Index c, Index y, Index length) {
    std::memcpy(&target.at(n, c, y, box.x.begin), bytes.data() + packed_offset(box, n, c, y),
                static_cast<std::size_t>(length) * sizeof(float));
  };
  for_runs(box, pool, run, target);
}

void unpack_add(std::span<const std::byte> bytes, FloatView target, const Box& box, base::ThreadPool& pool) {
  TESSERA_CHECK(bytes.size() == static_cast<std::size_t>(box.elements()) * sizeof(float), "bytes={} box={}", bytes.size(), to_string(box));
  if (box.empty()) return;
  check_holds(target.box, box);
  const auto run = [&](Index n, Index c, Index y, Index length) {
    const std::byte* from = bytes.data() + packed_offset(box, n, c, y);
    float* to = &target.at(n, c, y, box.x.begin);
    for (Index i = 0; i < length; ++i) {
      float value;  // message payloads need not be aligned
      std::memcpy(&value, from + static_cast<std::size_t>(i) * sizeof(float), sizeof(float));
      to[i] += value;
    }
  };
  for_runs(box, pool, run, target);
}

void route_forward(ConstFloatView input, Index channel_offset, FloatView output, const Box& box, base::ThreadPool& pool) {
  if (box.empty()) return;
  check_holds(output.box, box);
  check_holds(input.box, shift_channels(box, -channel_offset));
  const auto run = [&](Index n, Index c, Index y, Index length) {
    std::memcpy(&output.at(n, c, y, box.x.begin), &input.at(n, c - channel_offset, y, box.x.begin),
                static_cast<std::size_t>(length) * sizeof(float));
  };
  for_runs(box, pool, run, input, output);
}

void route_backward(ConstFloatView delta_out, Index channel_offset, Range channels, FloatView delta_in, const Box& box, bool accumulate,
                    base::ThreadPool& pool) {
  const Box seen = intersect(box, {box.n, channels, box.y, box.x});
  for (const Box& unseen : accumulate ? std::vector<Box>{} : subtract(box, seen)) fill(delta_in, unseen, 0, pool);
  // The same cells under the input's channel numbers.
  const ConstFloatView renumbered{delta_out.data, shift_channels(delta_out.box, -channel_offset)};
  if (accumulate) {
    add(renumbered, delta_in, seen, 1, pool);
  } else {
    copy(renumbered, delta_in, seen, pool);
  }
}

void upsample_forward(const UpsampleShape& shape, ConstFloatView input, FloatView output, const Box& box, base::ThreadPool& pool) {
  if (box.empty()) return;
  check_holds(output.box, box);
  const Index stride = shape.stride;
  for_rows(box, pool, [&](Index n, Index c, Index y, Index rows) {
    for (Index row = y; row < y + rows; ++row) {
      float* target = &output.at(n, c, row, box.x.begin);
      for (Index x = box.x.begin; x < box.x.end; ++x, ++target) {
        if (!shape.reverse) {
          *target = shape.scale * input.at(n, c, row / stride, x / stride);
          continue;
        }
        float sum = 0;
        for (Index dy = 0; dy < stride; ++dy)
          for (Index dx = 0; dx < stride; ++dx) sum += shape.scale * input.at(n, c, row * stride + dy, x * stride + dx);
        *target = sum;
      }
    }
  });
}

void upsample_backward(const UpsampleShape& shape, ConstFloatView delta_out, FloatView delta_in, const Box& box, bool accumulate,
                       base::ThreadPool& pool) {
  if (box.empty()) return;
  check_holds(delta_in.box, box);
  const Index stride = shape.stride;
  for_rows(box, pool, [&](Index n, Index c, Index y, Index rows) {
    for (Index row = y; row < y + rows; ++row) {
      float* target = &delta_in.at(n, c, row, box.x.begin);
      for (Index x = box.x.begin; x < box.x.end; ++x, ++target) {
        float sum = accumulate ? *target : 0;
        if (shape.reverse) {
          sum += shape.scale * delta_out.at(n, c, row / stride, x / stride);
        } else {
          for (Index dy = 0; dy < stride; ++dy)
            for (Index dx = 0; dx < stride; ++dx) sum += shape.scale * delta_out.at(n, c, row * stride + dy, x * stride + dx);
        }
        *target = sum;
      }
    }
  });
}

}  // namespace tessera::kernels
