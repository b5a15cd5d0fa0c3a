// Max pooling (Darknet's maxpool_layer.c): output cell o sees the input cells [o * stride - pad / 2, ... + size),
// clipped to the image; the first maximum in row-major order wins.
#pragma once

#include <cstdint>

#include "base/thread_pool.hpp"
#include "geometry/tensor_view.hpp"
#include "geometry/window.hpp"
#include "kernels/batch_norm.hpp"

namespace tessera::kernels {

using geometry::Range;
using IndexView = geometry::View<std::uint8_t>;
using ConstIndexView = geometry::View<const std::uint8_t>;

struct PoolShape {
  Index in_y = 0, in_x = 0;
  int size = 2;  // at most kMaxPoolSize
  int stride = 2;
  int pad = 1;       // Darknet's `padding`, in total; default size - 1
  int stride_x = 0;  // along columns; 0: as along rows

  geometry::Window rows() const { return {size, stride, pad / 2}; }
  geometry::Window columns() const { return {size, stride_x ? stride_x : stride, pad / 2}; }
  Index out_y() const { return rows().outputs(in_y, pad); }
  Index out_x() const { return columns().outputs(in_x, pad); }
};

// A winner's place in its window, dy * size + dx, is stored in one byte; kNoWinner where every cell is NaN or the
// window lies outside the image (then the output is -FLT_MAX, and no delta flows).
inline constexpr int kMaxPoolSize = 15;
inline constexpr std::uint8_t kNoWinner = 255;

// output[box] and indices[box]; indices.data may be null (testing). input holds the input windows of box.
void maxpool_forward(const PoolShape& shape, ConstFloatView input, FloatView output, IndexView indices, const Box& box,
                     base::ThreadPool& pool);

// maxpool_forward() of what normalize_activate() makes of x, the same bits, without that ever being in memory as a whole.
// Cells that several windows see are normalised for each.
void normalize_maxpool_forward(const PoolShape& shape, ConstFloatView x, const NormParameters& parameters, FloatView output,
                               IndexView indices, const Box& box, base::ThreadPool& pool);

// delta_in[compute] = (accumulate: +=) the contributions of all outputs that see compute; delta_out and indices hold
// those. Contributions to cells outside compute are left out.
void maxpool_backward(const PoolShape& shape, ConstFloatView delta_out, ConstIndexView indices, FloatView delta_in, const Box& compute,
                      bool accumulate, base::ThreadPool& pool);

}  // namespace tessera::kernels
