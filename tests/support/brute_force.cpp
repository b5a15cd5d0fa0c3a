#include "tests/support/brute_force.hpp"

#include "kernels/elementwise.hpp"

namespace tessera::testing {

using geometry::Box;
using geometry::hull;
using geometry::Index;
using geometry::Range;
using geometry::Shape;
using graph::Graph;
using graph::Layer;
using graph::LayerKind;

namespace {

enum class Axis { kChannel, kRow, kColumn };

Index size(const Shape& shape, Axis axis) { return axis == Axis::kChannel ? shape.c : axis == Axis::kRow ? shape.y : shape.x; }

bool in_window(const Layer& layer, Index pad, Axis axis, Index out, Index in) {
  const Index stride = axis == Axis::kColumn && layer.stride_x > 0 ? layer.stride_x : layer.stride;
  for (Index tap = 0; tap < layer.kernel; ++tap)
    if (in == out * stride - pad + tap * layer.dilation) return true;
  return false;
}

// Darknet's shortcut_cpu: position i * stride of `from` joins position i * sample of the output.
bool is_pair(Index from_size, Index out_size, Index out, Index in) {
  const Index stride = std::max<Index>(1, from_size / out_size), sample = std::max<Index>(1, out_size / from_size);
  for (Index i = 0; i < std::min(from_size, out_size); ++i)
    if (i * sample == out && i * stride == in) return true;
  return false;
}

// Whether position `out` of the output reads position `in` of the input, along one axis. Not for reorg.
bool reads(const Graph& graph, int node, int input, Axis axis, Index out, Index in) {
  const Layer& layer = graph[node];
  const Shape& from = graph[layer.inputs[static_cast<std::size_t>(input)]].out;
  const bool channel = axis == Axis::kChannel;
  switch (layer.kind) {
    case LayerKind::kConvolutional:
      return channel ? out / (layer.out.c / layer.groups) == in / (from.c / layer.groups) : in_window(layer, layer.pad, axis, out, in);
    case LayerKind::kMaxpool:
      return channel ? out == in : in_window(layer, layer.pad / 2, axis, out, in);
    case LayerKind::kRoute: {
      Index offset = 0;
      for (int i = 0; i < input; ++i) offset += graph[layer.inputs[static_cast<std::size_t>(i)]].out.c / layer.groups;
      const Index first = from.c / layer.groups * layer.group, place = in - first;
      if (channel) return place >= 0 && place < from.c / layer.groups && out == place + offset;
      return out == in;
    }
    case LayerKind::kShortcut:
      if (input == 0 || channel) return out == in;
      return is_pair(size(from, axis), size(layer.out, axis), out, in);
    case LayerKind::kUpsample:
      return channel ? out == in : out / layer.stride == in;
    default:
      return false;
  }
}

Range inputs_of(const Graph& graph, int node, int input, Axis axis, Range out) {
  Range result;
  const Index limit = size(graph[graph[node].inputs[static_cast<std::size_t>(input)]].out, axis);
  for (Index o = out.begin; o < out.end; ++o)
    for (Index i = 0; i < limit; ++i)
      if (reads(graph, node, input, axis, o, i)) result = hull(result, {i, i + 1});
  return result;
}

Range outputs_of(const Graph& graph, int node, int input, Axis axis, Range in) {
  Range result;
  for (Index o = 0; o < size(graph[node].out, axis); ++o)
    for (Index i = in.begin; i < in.end; ++i)
      if (reads(graph, node, input, axis, o, i)) result = hull(result, {o, o + 1});
  return result;
}

kernels::ReorgShape reorg_shape(const Graph& graph, int node) {
  return {graph[graph[node].inputs[0]].out, graph[node].stride, graph[node].reverse};
}

template <typename Map>
Box mapped(const Box& box, Map map) {
  Box result;
  for (Index c = box.c.begin; c < box.c.end; ++c)
    for (Index y = box.y.begin; y < box.y.end; ++y)
      for (Index x = box.x.begin; x < box.x.end; ++x) {
        const kernels::Cell cell = map(kernels::Cell{c, y, x});
        result = hull(result, {box.n, {cell.c, cell.c + 1}, {cell.y, cell.y + 1}, {cell.x, cell.x + 1}});
      }
  return result;
}

Box checked(const Box& box) { return box.empty() ? Box{} : box; }

}  // namespace

Box brute_input_box(const Graph& graph, int node, int input, const Box& out) {
  if (out.empty()) return {};
  if (graph[node].kind == LayerKind::kReorg)
    return mapped(out, [&](kernels::Cell cell) { return kernels::reorg_source(reorg_shape(graph, node), cell); });
  return checked({out.n, inputs_of(graph, node, input, Axis::kChannel, out.c), inputs_of(graph, node, input, Axis::kRow, out.y),
                  inputs_of(graph, node, input, Axis::kColumn, out.x)});
}

Box brute_output_box(const Graph& graph, int node, int input, const Box& in) {
  if (in.empty()) return {};
  if (graph[node].kind == LayerKind::kReorg)
    return mapped(in, [&](kernels::Cell cell) { return kernels::reorg_target(reorg_shape(graph, node), cell); });
  return checked({in.n, outputs_of(graph, node, input, Axis::kChannel, in.c), outputs_of(graph, node, input, Axis::kRow, in.y),
                  outputs_of(graph, node, input, Axis::kColumn, in.x)});
}

}  // namespace tessera::testing
