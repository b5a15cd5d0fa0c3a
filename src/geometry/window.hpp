// Sliding windows along one axis: which inputs an output needs, and which outputs an input touches.
#pragma once

#include "geometry/box.hpp"

namespace tessera::geometry {

// Output o covers inputs o*stride - pad + tap*apart, for taps in [0, kernel). `pad` is the padding on the low side.
struct Window {
  Index kernel = 1;
  Index stride = 1;
  Index pad = 0;
  Index apart = 1;

  Index reach() const { return (kernel - 1) * apart + 1; }
  Index begin(Index out) const { return out * stride - pad; }
  // Outputs of an image with `total_pad` zeros at its ends.
  Index outputs(Index inputs, Index total_pad) const {
    return inputs + total_pad < reach() ? 0 : (inputs + total_pad - reach()) / stride + 1;
  }
};

// Floor and ceiling of a/b for b > 0 and any sign of a.
Index floor_divide(Index a, Index b);
Index ceil_divide(Index a, Index b);

// Inputs in [0, input_size) that the outputs of `out` read. Empty for an empty `out`.
Range input_range(const Window& window, Range out, Index input_size);

// Outputs in [0, output_size) whose window holds at least one input of `in`. Empty for an empty `in`.
Range output_range(const Window& window, Range in, Index output_size);

// Outputs of `out` whose input at `tap` lies in `in`.
Range tap_range(const Window& window, Index tap, Range out, Range in);

// Of layers whose channels are in groups of `size`: those of the groups' other side, in groups of `other_size`, that belong to
// `channels`.
Range grouped_range(Range channels, Index size, Index other_size);

}  // namespace tessera::geometry
