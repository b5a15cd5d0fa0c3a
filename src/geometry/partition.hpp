// Cutting a tensor into owned boxes.
#pragma once

#include <vector>

#include "geometry/box.hpp"

namespace tessera::geometry {

// Cuts [0, size) into shares.size() contiguous ranges whose lengths follow `shares` (non-negative, sum > 0). A range may
// be empty. The cut points are round(size * cumulative share), so tensors of proportional size are cut at proportional
// places.
std::vector<Range> cut(Index size, const std::vector<double>& shares);

// The boxes of a grid: samples x channels x rows x columns. The box of cell (n, c, y, x) is at
// ((n * channels + c) * rows + y) * columns + x.
struct GridShares {
  std::vector<double> samples = {1.0};
  std::vector<double> channels = {1.0};
  std::vector<double> rows = {1.0};
  std::vector<double> columns = {1.0};

  std::size_t cells() const { return samples.size() * channels.size() * rows.size() * columns.size(); }
  friend bool operator==(const GridShares&, const GridShares&) = default;
};
std::vector<Box> cut(Index batch, const Shape& shape, const GridShares& grid);

// True when the boxes are pairwise disjoint and together cover `whole` exactly.
bool is_partition(const std::vector<Box>& boxes, const Box& whole);

}  // namespace tessera::geometry
