// Darknet's reorg, a permutation of each sample's memory: from space to channels by a factor `stride`, or `reverse`.
#include <fmt/format.h>

#include "graph/layers/kind.hpp"

namespace tessera::graph {
namespace {

// Rows of the input that row `y` of the output reads, over all channels. Derived from reorg_cpu with forward = 0: output row
// y of channel k is global row r = y + H*(k mod s*s), read from row s*y + s*a - (s-1)*(r mod s), a in [0, s), modulo the
// input's height h = s*H.
Range rows_of(Index y, Index stride, Index out_rows) {
  const Index rows = out_rows * stride;
  Range hull_rows;
  for (Index q = 0; q < stride * stride; ++q)
    for (Index a = 0; a < stride; ++a) {
      const Index m = (y + out_rows * q) % stride;
      const Index row = ((stride * y + stride * a - (stride - 1) * m) % rows + rows) % rows;
      hull_rows = geometry::hull(hull_rows, {row, row + 1});
    }
  return hull_rows;
}

Range input_rows(Range out, const Layer& layer) {
  Range rows;
  for (Index y = out.begin; y < out.end; ++y) rows = geometry::hull(rows, rows_of(y, layer.stride, layer.out.y));
  return rows;
}

Range output_rows(Range in, const Layer& layer) {
  Range rows;
  for (Index y = 0; y < layer.out.y; ++y)
    if (!intersect(rows_of(y, layer.stride, layer.out.y), in).empty()) rows = geometry::hull(rows, {y, y + 1});
  return rows;
}

std::string fault(const Graph& graph, const Layer& layer) {
  const Shape& in = input_shape(graph, layer);
  const Index s = layer.stride;
  if (layer.reverse && in.c % (s * s) != 0) return fmt::format("{} channels cannot be spread over {}x{} cells", in.c, s, s);
  if (!layer.reverse && (in.x % s != 0 || in.y % s != 0 || in.c % (s * s) != 0))
    return fmt::format("an input of {}x{}x{} is not divisible by its stride {}", in.x, in.y, in.c, s);
  const Shape out = layer.reverse ? Shape{in.c / (s * s), in.y * s, in.x * s} : Shape{in.c * s * s, in.y / s, in.x / s};
  return layer.out == out ? "" : "its shape does not follow from its input";
}

Box input_box(const Graph& graph, const Layer& layer, int, const Box& out) {
  const Range channels{0, input_shape(graph, layer).c};
  if (layer.reverse) return {out.n, channels, shrink(out.y, layer.stride), shrink(out.x, layer.stride)};
  return {out.n, channels, input_rows(out.y, layer), grow(out.x, layer.stride)};
}

Box output_box(const Graph&, const Layer& layer, int, const Box& in) {
  const Range channels{0, layer.out.c};
  if (layer.reverse) return {in.n, channels, grow(in.y, layer.stride), grow(in.x, layer.stride)};
  return {in.n, channels, output_rows(in.y, layer), shrink(in.x, layer.stride)};
}

bool replaces_delta(const Layer&) { return true; }

std::string text(const Layer& layer) { return fmt::format("/{}", layer.stride); }

}  // namespace

constinit const Kind kReorgKind{
    .name = "reorg", .fault = fault, .input_box = input_box, .output_box = output_box, .replaces_delta = replaces_delta, .text = text};

}  // namespace tessera::graph
