#include "graph/footprint.hpp"

#include "base/check.hpp"

namespace tessera::graph {

using geometry::Box;
using geometry::ceil_divide;
using geometry::floor_divide;
using geometry::intersect;
using geometry::Range;

namespace {

Box checked(Box box) { return box.empty() ? Box{} : box; }

// Channels that come before inputs[input] in a route's output.
Index route_offset(const Graph& graph, const Layer& route, int input) {
  Index offset = 0;
  for (int i = 0; i < input; ++i) offset += graph[route.inputs[static_cast<std::size_t>(i)]].out.c;
  return offset;
}

// Darknet's shortcut_cpu: cell i*sample of the output gets cell i*stride of `from`, for i below both sizes.
struct ShortcutAxis {
  Index stride, sample, cells;
};

ShortcutAxis shortcut_axis(Index from_size, Index out_size) {
  return {std::max<Index>(1, from_size / out_size), std::max<Index>(1, out_size / from_size), std::min(from_size, out_size)};
}

// Maps a range of positions spaced `step` apart to those spaced `to` apart.
Range respace(Range range, Index step, Index to, Index cells, Index limit) {
  const Range index = intersect(Range{ceil_divide(range.begin, step), ceil_divide(range.end, step)}, Range{0, cells});
  if (index.empty()) return {};
  return intersect(Range{index.begin * to, (index.end - 1) * to + 1}, Range{0, limit});
}

// Rows of the input that row `y` of the output of Darknet's (memory-permuting) reorg reads, over all channels. Derived
// from reorg_cpu with forward = 0: output row y of channel k is global row r = y + H*(k mod s*s), read from row
// s*y + s*a - (s-1)*(r mod s), a in [0, s), modulo the input's height h = s*H.
Range reorg_rows(Index y, Index stride, Index out_rows) {
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

Range reorg_input_rows(Range out, Index stride, Index out_rows) {
  Range rows;
  for (Index y = out.begin; y < out.end; ++y) rows = geometry::hull(rows, reorg_rows(y, stride, out_rows));
  return rows;
}

Range reorg_output_rows(Range in, Index stride, Index out_rows) {
  Range rows;
  for (Index y = 0; y < out_rows; ++y)
    if (!intersect(reorg_rows(y, stride, out_rows), in).empty()) rows = geometry::hull(rows, {y, y + 1});
  return rows;
}

Range shrink(Range range, Index factor) { return {floor_divide(range.begin, factor), ceil_divide(range.end, factor)}; }
Range grow(Range range, Index factor) { return {range.begin * factor, range.end * factor}; }

}  // namespace

Box input_box(const Graph& graph, int node, int input, const Box& out) {
  if (out.empty()) return {};
  const Layer& layer = graph[node];
  const Shape& from = graph[layer.inputs[static_cast<std::size_t>(input)]].out;
  const Range channels{0, from.c};
  switch (layer.kind) {
    case LayerKind::kInput:
      break;
    case LayerKind::kConvolutional:
      return checked({out.n, channels, input_range(layer.window(), out.y, from.y), input_range(layer.window(), out.x, from.x)});
    case LayerKind::kMaxpool:
      return checked({out.n, out.c, input_range(layer.window(), out.y, from.y), input_range(layer.window(), out.x, from.x)});
    case LayerKind::kRoute: {
      const Index offset = route_offset(graph, layer, input);
      return checked({out.n, intersect({out.c.begin - offset, out.c.end - offset}, channels), out.y, out.x});
    }
    case LayerKind::kShortcut: {
      if (input == 0) return out;
      const auto y = shortcut_axis(from.y, layer.out.y), x = shortcut_axis(from.x, layer.out.x);
      return checked({out.n, intersect(out.c, channels), respace(out.y, y.sample, y.stride, y.cells, from.y),
                      respace(out.x, x.sample, x.stride, x.cells, from.x)});
    }
    case LayerKind::kUpsample:
      return {out.n, out.c, shrink(out.y, layer.stride), shrink(out.x, layer.stride)};
    case LayerKind::kReorg:
      if (layer.reverse) return {out.n, channels, shrink(out.y, layer.stride), shrink(out.x, layer.stride)};
      return {out.n, channels, reorg_input_rows(out.y, layer.stride, layer.out.y), grow(out.x, layer.stride)};
  }
  TESSERA_CHECK(false, "node {} is an input", node);
  return {};
}

Box output_box(const Graph& graph, int node, int input, const Box& in) {
  if (in.empty()) return {};
  const Layer& layer = graph[node];
  const Shape& from = graph[layer.inputs[static_cast<std::size_t>(input)]].out;
  const Range channels{0, layer.out.c};
  switch (layer.kind) {
    case LayerKind::kInput:
      break;
    case LayerKind::kConvolutional:
      return checked({in.n, channels, output_range(layer.window(), in.y, layer.out.y), output_range(layer.window(), in.x, layer.out.x)});
    case LayerKind::kMaxpool:
      return checked({in.n, in.c, output_range(layer.window(), in.y, layer.out.y), output_range(layer.window(), in.x, layer.out.x)});
    case LayerKind::kRoute: {
      const Index offset = route_offset(graph, layer, input);
      return checked({in.n, {in.c.begin + offset, in.c.end + offset}, in.y, in.x});
    }
    case LayerKind::kShortcut: {
      if (input == 0) return in;
      const auto y = shortcut_axis(from.y, layer.out.y), x = shortcut_axis(from.x, layer.out.x);
      return checked({in.n, intersect(in.c, channels), respace(in.y, y.stride, y.sample, y.cells, layer.out.y),
                      respace(in.x, x.stride, x.sample, x.cells, layer.out.x)});
    }
    case LayerKind::kUpsample:
      return {in.n, in.c, grow(in.y, layer.stride), grow(in.x, layer.stride)};
    case LayerKind::kReorg:
      if (layer.reverse) return {in.n, channels, grow(in.y, layer.stride), grow(in.x, layer.stride)};
      return checked({in.n, channels, reorg_output_rows(in.y, layer.stride, layer.out.y), shrink(in.x, layer.stride)});
  }
  TESSERA_CHECK(false, "node {} is an input", node);
  return {};
}

Index multiply_adds(const Graph& graph, int node, const Box& out) {
  const Layer& layer = graph[node];
  if (layer.kind != LayerKind::kConvolutional) return 0;
  return out.elements() * graph.input_channels(node) * layer.kernel * layer.kernel;
}

}  // namespace tessera::graph
