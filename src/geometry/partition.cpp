#include "geometry/partition.hpp"

#include <cmath>
#include <numeric>

#include "base/check.hpp"

namespace tessera::geometry {

std::vector<Range> cut(Index size, const std::vector<double>& shares) {
  const double total = std::accumulate(shares.begin(), shares.end(), 0.0);
  TESSERA_CHECK(!shares.empty() && total > 0, "{} shares, sum {}", shares.size(), total);
  std::vector<Range> ranges;
  double cumulative = 0;
  Index begin = 0;
  for (std::size_t i = 0; i < shares.size(); ++i) {
    cumulative += shares[i];
    const Index end = i + 1 == shares.size() ? size : std::llround(static_cast<double>(size) * (cumulative / total));
    ranges.push_back({begin, end});
    begin = end;
  }
  return ranges;
}

std::vector<Box> cut(Index batch, const Shape& shape, const GridShares& grid) {
  std::vector<Box> boxes;
  const auto channels = cut(shape.c, grid.channels), rows = cut(shape.y, grid.rows), columns = cut(shape.x, grid.columns);
  for (const Range& n : cut(batch, grid.samples))
    for (const Range& c : channels)
      for (const Range& y : rows)
        for (const Range& x : columns) {
          const Box box{n, c, y, x};
          boxes.push_back(box.empty() ? Box{} : box);
        }
  return boxes;
}

bool is_partition(const std::vector<Box>& boxes, const Box& whole) {
  Index covered = 0;
  for (std::size_t i = 0; i < boxes.size(); ++i) {
    if (boxes[i].empty()) continue;
    if (!whole.contains(boxes[i])) return false;
    for (std::size_t j = i + 1; j < boxes.size(); ++j)
      if (!intersect(boxes[i], boxes[j]).empty()) return false;
    covered += boxes[i].elements();
  }
  return covered == whole.elements();
}

}  // namespace tessera::geometry
