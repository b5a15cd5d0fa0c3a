// Channels of several tensors, one after the other: of each all, or one of `groups` equal parts.
#include <fmt/format.h>

#include <limits>

#include "graph/footprint.hpp"
#include "graph/layers/kind.hpp"

namespace tessera::graph {
namespace {

// Channels of the group that is taken.
Range taken(const Graph& graph, const Layer& layer, int input) {
  const Index size = input_shape(graph, layer, input).c / layer.groups;
  return {layer.group * size, (layer.group + 1) * size};
}

Index offset(const Graph& graph, const Layer& layer, int input) {
  Index before = 0;
  for (int i = 0; i < input; ++i) before += taken(graph, layer, i).size();
  return before - taken(graph, layer, input).begin;
}

std::string fault(const Graph& graph, const Layer& layer) {
  Index channels = 0;
  for (int input : layer.inputs) {
    const Shape& in = graph[input].out;
    if (in.y != layer.out.y || in.x != layer.out.x)
      return fmt::format("joins maps of different size, {}x{} and {}x{}", in.x, in.y, layer.out.x, layer.out.y);
    if (in.c % layer.groups != 0) return fmt::format("{} channels in {} groups", in.c, layer.groups);
    channels += in.c / layer.groups;
  }
  return channels == layer.out.c ? "" : fmt::format("{} channels, its inputs have {}", layer.out.c, channels);
}

Box input_box(const Graph& graph, const Layer& layer, int input, const Box& out) {
  const Index by = offset(graph, layer, input);
  return {out.n, intersect({out.c.begin - by, out.c.end - by}, taken(graph, layer, input)), out.y, out.x};
}

Box output_box(const Graph& graph, const Layer& layer, int input, const Box& in) {
  const Range channels = intersect(in.c, taken(graph, layer, input));
  const Index by = offset(graph, layer, input);
  return {in.n, {channels.begin + by, channels.end + by}, in.y, in.x};
}

std::string text(const Layer& layer) { return layer.groups > 1 ? fmt::format("group {}/{}", layer.group, layer.groups) : ""; }

}  // namespace

constinit const Kind kRouteKind{.name = "route",
                                .most_inputs = std::numeric_limits<int>::max(),
                                .fault = fault,
                                .input_box = input_box,
                                .output_box = output_box,
                                .text = text};

Index route_offset(const Graph& graph, int route, int input) { return offset(graph, graph[route], input); }

}  // namespace tessera::graph
