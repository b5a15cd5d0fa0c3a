// Cells of two maps of different size that belong together: those of a shortcut.
#pragma once

#include "geometry/window.hpp"

namespace tessera::geometry {

// Along one axis, Darknet's shortcut_cpu: position i * stride of `from` meets position i * sample of `out`, for i below both sizes.
struct Pairs {
  Pairs(Index from, Index out)
      : stride(std::max<Index>(1, from / out)), sample(std::max<Index>(1, out / from)), count(std::min(from, out)) {}

  // The i with i * step in `range`.
  Range among(Range range, Index step) const {
    const Range pairs = intersect(Range{ceil_divide(range.begin, step), ceil_divide(range.end, step)}, Range{0, count});
    return range.empty() || pairs.empty() ? Range{} : pairs;
  }
  // Positions of `from` that meet those of `out`, and the other way round, as hulls.
  Range from_range(Range out) const { return positions(among(out, sample), stride); }
  Range out_range(Range from) const { return positions(among(from, stride), sample); }

  Index stride, sample, count;

 private:
  static Range positions(Range pairs, Index step) {
    return pairs.empty() ? Range{} : Range{pairs.begin * step, (pairs.end - 1) * step + 1};
  }
};

}  // namespace tessera::geometry
