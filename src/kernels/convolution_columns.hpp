// im2col and col2im on pieces of tiles, for convolutions as matrix products. Internal.
//
// A block is some output rows of one or more samples, narrowed to the columns x: its cells, row after row and sample
// after sample, are the columns of the matrices.
#pragma once

#include "kernels/convolution.hpp"

namespace tessera::kernels {

// columns[(c - channels.begin) * kernel^2 + ky * kernel + kx][...] = input cell that output cell (y + i / width,
// x.begin + i % width) multiplies with weight (c, ky, kx); zero outside the image. Writes rows * x.size() values per
// matrix row; matrix rows are `stride` floats apart.
void gather_columns(const ConvolutionShape& shape, const ConstFloatView& input, Index n, Range channels, Index y, Index rows, Range x,
                    float* columns, Index stride);

// The transpose: adds each value to the delta_in cell it was gathered from, where that lies in the rows and columns of
// `compute`.
void scatter_columns(const ConvolutionShape& shape, const float* columns, Index stride, const FloatView& delta_in, Index n, Range channels,
                     Index y, Index rows, Range x, const Box& compute);

// Plain rows of a tensor to a matrix (matrix row = channel) and back.
void gather_rows(const ConstFloatView& source, Index n, Range channels, Index y, Index rows, Range x, float* matrix, Index stride);
void scatter_rows(const float* matrix, Index stride, const FloatView& target, Index n, Range channels, Index y, Index rows, Range x,
                  bool accumulate);

}  // namespace tessera::kernels
