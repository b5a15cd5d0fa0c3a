// Sliding windows along one axis: which inputs an output needs, and which outputs an input touches.
#pragma once

#include "geometry/box.hpp"

namespace tessera::geometry {

// Output o covers inputs [o*stride - pad, o*stride - pad + kernel). `pad` is the padding on the low side.
struct Window {
  Index kernel = 1;
  Index stride = 1;
  Index pad = 0;
};

// Floor and ceiling of a/b for b > 0 and any sign of a.
Index floor_divide(Index a, Index b);
Index ceil_divide(Index a, Index b);

// Inputs in [0, input_size) that the outputs of `out` read. Empty for an empty `out`.
Range input_range(const Window& window, Range out, Index input_size);

// Outputs in [0, output_size) whose window holds at least one input of `in`. Empty for an empty `in`.
Range output_range(const Window& window, Range in, Index output_size);

}  // namespace tessera::geometry
