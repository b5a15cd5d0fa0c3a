#include "kernels/convolution_columns.hpp"

namespace tessera::kernels {
namespace {

using geometry::floor_divide;

// Positions of `out` whose input position o * stride - pad + place lies in `in`.
Range outputs_reading(const ConvolutionShape& shape, Range out, Index place, Range in) {
  const Index shift = shape.pad - place;
  const Range inside{-floor_divide(-(in.begin + shift), shape.stride), floor_divide(in.end - 1 + shift, shape.stride) + 1};
  const Range result = intersect(out, inside);
  return result.empty() ? Range{out.begin, out.begin} : result;
}

}  // namespace

void gather_columns(const ConvolutionShape& shape, const ConstFloatView& input, Index n, Range channels, Index y, Index rows, Range x,
                    float* columns, Index stride) {
  const Index width = x.size();
  for (Index c = channels.begin; c < channels.end; ++c)
    for (int ky = 0; ky < shape.kernel; ++ky)
      for (int kx = 0; kx < shape.kernel; ++kx, columns += stride) {
        const Range inside = outputs_reading(shape, x, kx, {0, shape.in_x});
        const Index before = inside.begin - x.begin, count = inside.size(), after = width - before - count;
        const Index in_x = inside.begin * shape.stride - shape.pad + kx;
        float* target = columns;
        for (Index row = y; row < y + rows; ++row, target += width) {
          const Index in_y = row * shape.stride - shape.pad + ky;
          if (in_y < 0 || in_y >= shape.in_y || count == 0) {
            std::fill(target, target + width, 0.f);
            continue;
          }
          std::fill(target, target + before, 0.f);
          const float* source = &input.at(n, c, in_y, in_x);
          if (shape.stride == 1) {
            std::copy(source, source + count, target + before);
          } else {
            for (Index i = 0; i < count; ++i) target[before + i] = source[i * shape.stride];
          }
          std::fill(target + width - after, target + width, 0.f);
        }
      }
}

void scatter_columns(const ConvolutionShape& shape, const float* columns, Index stride, const FloatView& delta_in, Index n, Range channels,
                     Index y, Index rows, Range x, const Box& compute) {
  const Index width = x.size();
  for (Index c = channels.begin; c < channels.end; ++c)
    for (int ky = 0; ky < shape.kernel; ++ky)
      for (int kx = 0; kx < shape.kernel; ++kx, columns += stride) {
        const Range inside = outputs_reading(shape, x, kx, compute.x);
        const Index count = inside.size();
        if (count == 0) continue;
        const Index in_x = inside.begin * shape.stride - shape.pad + kx;
        const Range reading = outputs_reading(shape, {y, y + rows}, ky, compute.y);
        for (Index row = reading.begin; row < reading.end; ++row) {
          const float* __restrict source = columns + (row - y) * width + (inside.begin - x.begin);
          float* __restrict target = &delta_in.at(n, c, row * shape.stride - shape.pad + ky, in_x);
          if (shape.stride == 1) {
            for (Index i = 0; i < count; ++i) target[i] += source[i];
          } else {
            for (Index i = 0; i < count; ++i) target[i * shape.stride] += source[i];
          }
        }
      }
}

void gather_rows(const ConstFloatView& source, Index n, Range channels, Index y, Index rows, Range x, float* matrix, Index stride) {
  for (Index c = channels.begin; c < channels.end; ++c, matrix += stride)
    for (Index row = 0; row < rows; ++row) {
      const float* cells = &source.at(n, c, y + row, x.begin);
      std::copy(cells, cells + x.size(), matrix + row * x.size());
    }
}

void scatter_rows(const float* matrix, Index stride, const FloatView& target, Index n, Range channels, Index y, Index rows, Range x,
                  bool accumulate) {
  const Index width = x.size();
  for (Index c = channels.begin; c < channels.end; ++c, matrix += stride)
    for (Index row = 0; row < rows; ++row) {
      const float* __restrict cells = matrix + row * width;
      float* __restrict to = &target.at(n, c, y + row, x.begin);
      if (accumulate) {
        for (Index i = 0; i < width; ++i) to[i] += cells[i];
      } else {
        std::copy(cells, cells + width, to);
      }
    }
}

}  // namespace tessera::kernels
