#include "geometry/window.hpp"

namespace tessera::geometry {

Index floor_divide(Index a, Index b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

Index ceil_divide(Index a, Index b) { return -floor_divide(-a, b); }

Range input_range(const Window& window, Range out, Index input_size) {
  if (out.empty()) return {};
  const Index begin = out.begin * window.stride - window.pad;
  const Index end = (out.end - 1) * window.stride - window.pad + window.reach();
  const Range clipped = intersect(Range{begin, end}, Range{0, input_size});
  return clipped.empty() ? Range{} : clipped;
}

Range output_range(const Window& window, Range in, Index output_size) {
  if (in.empty()) return {};
  const Index begin = floor_divide(in.begin + window.pad - window.reach(), window.stride) + 1;
  const Index end = ceil_divide(in.end + window.pad, window.stride);
  const Range clipped = intersect(Range{begin, end}, Range{0, output_size});
  return clipped.empty() ? Range{} : clipped;
}

Range tap_range(const Window& window, Index tap, Range out, Range in) {
  const Index shift = window.pad - tap * window.apart;
  const Range result = intersect(out, {ceil_divide(in.begin + shift, window.stride), floor_divide(in.end - 1 + shift, window.stride) + 1});
  return result.empty() ? Range{out.begin, out.begin} : result;
}

Range grouped_range(Range channels, Index size, Index other_size) {
  if (channels.empty()) return {};
  return {channels.begin / size * other_size, ((channels.end - 1) / size + 1) * other_size};
}

}  // namespace tessera::geometry
