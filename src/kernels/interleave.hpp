// Plain tensors (channel after channel) to layouts in which channels of a cell are neighbours, and back. Internal to
// backends that compute in such layouts.
#pragma once

#include <array>

#include "geometry/box.hpp"

namespace tessera::kernels {

using geometry::Index;

// Cells of a plain tensor, adjacent in x only.
struct PlainCells {
  float* data;
  std::array<Index, 4> sizes;    // n, c, y, x
  std::array<Index, 3> strides;  // of the first three, in floats
};

// interleaved = [n][c / group][y][x][group]: `group` divides the number of channels. group = channels: "nhwc".
void interleave(const PlainCells& plain, Index group, float* interleaved);

// plain = (or += when add) interleaved.
void deinterleave(const float* interleaved, Index group, const PlainCells& plain, bool add);

}  // namespace tessera::kernels
