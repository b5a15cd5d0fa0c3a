// How a convolution on a tile is cut into blocks for oneDNN. Internal to convolution_onednn.cpp.
#pragma once

#include <numeric>

#include "kernels/onednn_primitives.hpp"

namespace tessera::kernels::onednn {

// Image and output of a block in a layout of the library, together: they should stay in the second-level cache between
// the reorders and the convolution.
inline constexpr Index kBlockFloats = 192 * 1024;

// One block: the cells to produce (or sum over), and the cells of image and output the primitive works on. Those are
// empty where the block sees nothing but padding; cells of `whole` outside them become zero.
struct Piece {
  Box whole, image, output;
  Block block;
};

struct Extent {
  Index samples, rows;  // of a block
};

// `rows` of a box with `row_floats` each in image and output, so that blocks fit the cache, or, where the weights do not,
// so that the weights are read few times; and so that the number of blocks suits the threads.
inline Extent block_extent(const Box& box, Index row_floats, Index weight_floats, Index weight_share, Index threads) {
  const Index samples = box.n.size(), rows = box.y.size();
  const Index budget = std::max(kBlockFloats, weight_floats * weight_share), sample_floats = rows * row_floats;
  const auto up = [](Index a, Index b) { return (a + b - 1) / b; };
  Extent extent{std::clamp<Index>(budget / sample_floats, 1, up(samples, threads)), std::clamp<Index>(budget / row_floats, 1, rows)};
  const Index blocks = up(samples, extent.samples) * up(rows, extent.rows);
  if (blocks % threads != 0 && blocks < 4 * threads) {
    const Index factor = threads / std::gcd(samples, threads);
    extent.samples = 1;
    extent.rows = up(rows, std::min(rows, up(up(rows, extent.rows), factor) * factor));
  } else {
    extent.rows = up(rows, up(rows, extent.rows));
  }
  return extent;
}

// `whole` is a box of the image in backward data, of the output otherwise.
inline Piece make_piece(const ConvolutionShape& shape, Pass pass, const Box& whole, Range in_channels, Range out_channels) {
  const auto reach = [&shape](Range out) {
    return Range{out.begin * shape.stride - shape.pad, (out.end - 1) * shape.stride - shape.pad + shape.kernel};
  };
  Range in_y, in_x, out_y, out_x;
  if (pass == Pass::kBackwardData) {
    out_y = output_range(shape.rows(), whole.y, shape.out_y());
    out_x = output_range(shape.columns(), whole.x, shape.out_x());
    in_y = intersect(whole.y, reach(out_y));
    in_x = intersect(whole.x, reach(out_x));
  } else {
    in_y = input_range(shape.rows(), whole.y, shape.in_y);
    in_x = input_range(shape.columns(), whole.x, shape.in_x);
    out_y = intersect(whole.y, output_range(shape.rows(), in_y, shape.out_y()));
    out_x = intersect(whole.x, output_range(shape.columns(), in_x, shape.out_x()));
    // Where the stride is larger than the kernel, the first output may start after the window's first cells.
    in_y = intersect(in_y, reach(out_y));
    in_x = intersect(in_x, reach(out_x));
  }
  Piece piece{whole, {}, {}, {}};
  if (in_y.empty() || in_x.empty() || out_y.empty() || out_x.empty() || in_channels.empty() || out_channels.empty()) return piece;
  piece.image = {whole.n, in_channels, in_y, in_x};
  piece.output = {whole.n, out_channels, out_y, out_x};
  piece.block = {pass,
                 whole.n.size(),
                 in_channels.size(),
                 in_y.size(),
                 in_x.size(),
                 out_channels.size(),
                 out_y.size(),
                 out_x.size(),
                 shape.pad + in_y.begin - out_y.begin * shape.stride,
                 shape.pad + in_x.begin - out_x.begin * shape.stride};
  return piece;
}

// The blocks of a call, sample after sample and row after row.
inline std::vector<Piece> cut(const ConvolutionShape& shape, Pass pass, const Box& box, Range in_channels, Range out_channels,
                              Index weight_share, Index threads) {
  const bool data = pass == Pass::kBackwardData;
  const Index in_row = in_channels.size() * (data ? box.x.size() : input_range(shape.columns(), box.x, shape.in_x).size() * shape.stride);
  // Deltas of some filters only are cut like those of all, so that memory planned for all is enough.
  const Index filters = data ? shape.out_c : out_channels.size();
  const Index out_row = filters * (data ? output_range(shape.columns(), box.x, shape.out_x()).size() / shape.stride + 1 : box.x.size());
  const Index weight_floats = in_channels.size() * filters * shape.kernel * shape.kernel;
  const Extent extent = block_extent(box, in_row + out_row, weight_floats, weight_share, threads);
  std::vector<Piece> pieces;
  for (Index n = box.n.begin; n < box.n.end; n += extent.samples)
    for (Index y = box.y.begin; y < box.y.end; y += extent.rows) {
      const Box whole{{n, std::min(n + extent.samples, box.n.end)}, box.c, {y, std::min(y + extent.rows, box.y.end)}, box.x};
      pieces.push_back(make_piece(shape, pass, whole, in_channels, out_channels));
    }
  return pieces;
}

}  // namespace tessera::kernels::onednn
