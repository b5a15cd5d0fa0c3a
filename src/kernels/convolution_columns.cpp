#include "kernels/convolution_columns.hpp"

namespace tessera::kernels {
void gather_columns(const ConvolutionShape& shape, const ConstFloatView& input, Index n, Range channels, Index y, Index rows, Range x,
                    float* columns, Index stride) {
  const Index width = x.size();
  const geometry::Window along_y = shape.rows(), along_x = shape.columns();
  for (Index c = channels.begin; c < channels.end; ++c)
    for (int ky = 0; ky < shape.kernel; ++ky)
      for (int kx = 0; kx < shape.kernel; ++kx, columns += stride) {
        const Range inside = tap_range(along_x, kx, x, {0, shape.in_x});
        const Index before = inside.begin - x.begin, count = inside.size(), after = width - before - count;
        const Index in_x = along_x.begin(inside.begin) + kx * along_x.apart;
        float* target = columns;
        for (Index row = y; row < y + rows; ++row, target += width) {
          const Index in_y = along_y.begin(row) + ky * along_y.apart;
          if (in_y < 0 || in_y >= shape.in_y || count == 0) {
            std::fill(target, target + width, 0.f);
            continue;
          }
          std::fill(target, target + before, 0.f);
          const float* source = &input.at(n, c, in_y, in_x);
          if (along_x.stride == 1) {
            std::copy(source, source + count, target + before);
          } else {
            for (Index i = 0; i < count; ++i) target[before + i] = source[i * along_x.stride];
          }
          std::fill(target + width - after, target + width, 0.f);
        }
      }
}

void scatter_columns(const ConvolutionShape& shape, const float* columns, Index stride, const FloatView& delta_in, Index n, Range channels,
                     Index y, Index rows, Range x, const Box& compute) {
  const Index width = x.size();
  const geometry::Window along_y = shape.rows(), along_x = shape.columns();
  for (Index c = channels.begin; c < channels.end; ++c)
    for (int ky = 0; ky < shape.kernel; ++ky)
      for (int kx = 0; kx < shape.kernel; ++kx, columns += stride) {
        const Range inside = tap_range(along_x, kx, x, compute.x);
        const Index count = inside.size();
        if (count == 0) continue;
        const Index in_x = along_x.begin(inside.begin) + kx * along_x.apart;
        const Range reading = tap_range(along_y, ky, {y, y + rows}, compute.y);
        for (Index row = reading.begin; row < reading.end; ++row) {
          const float* __restrict source = columns + (row - y) * width + (inside.begin - x.begin);
          float* __restrict target = &delta_in.at(n, c, along_y.begin(row) + ky * along_y.apart, in_x);
          if (along_x.stride == 1) {
            for (Index i = 0; i < count; ++i) target[i] += source[i];
          } else {
            for (Index i = 0; i < count; ++i) target[i * along_x.stride] += source[i];
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
