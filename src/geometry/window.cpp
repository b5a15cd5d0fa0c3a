#include "geometry/window.hpp"

namespace tessera::geometry {

Index floor_divide(Index a, Index b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

Index ceil_divide(Index a, Index b) { return -floor_divide(-a, b); }

Range input_range(const Window& window, Range out, Index input_size) {
  if (out.empty()) return {};
  const Index begin = out.begin * window.stride - window.pad;
  const Index end = (out.end - 1) * window.stride - window.pad + window.kernel;
  const Range clipped = intersect(Range{begin, end}, Range{0, input_size});
  return clipped.empty() ? Range{} : clipped;
}

Range output_range(const Window& window, Range in, Index output_size) {
  if (in.empty()) return {};
  const Index begin = floor_divide(in.begin + window.pad - window.kernel, window.stride) + 1;
  const Index end = ceil_divide(in.end + window.pad, window.stride);
  const Range clipped = intersect(Range{begin, end}, Range{0, output_size});
  return clipped.empty() ? Range{} : clipped;
}

}  // namespace tessera::geometry
