// Products of the matrices of convolution_winograd.cpp as they are written there, without a copy. Internal.
#pragma once

#include "geometry/box.hpp"

namespace tessera::kernels {

using geometry::Index;

inline constexpr Index kStrip = 8;  // rows of transformed weights that lie together: weights[rows / 8][depth][8]

// Floats of a vector of products, the widest there is; `columns` and strides below are multiples of it.
inline constexpr Index kProductVector = __BIGGEST_ALIGNMENT__ / static_cast<Index>(sizeof(float));

// Whether this program is built for processors that multiply and add vectors in one instruction. Without them OpenBLAS, which
// looks at the processor it meets, is faster whatever the algorithm.
bool product_is_fast();

// products[rows][columns] = weights · source[depth][columns]. Writes whole strips of rows.
void multiply_strips(const float* weights, Index rows, Index depth, const float* source, Index source_stride, Index columns,
                     float* products, Index product_stride);

}  // namespace tessera::kernels
