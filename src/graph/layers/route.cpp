// Channels of several tensors, one after the other.
#include <fmt/format.h>

#include <limits>

#include "graph/layers/kind.hpp"

namespace tessera::graph {
namespace {

// By how much an input's channels are moved.
Index offset(const Graph& graph, const Layer& layer, int input) {
  Index channels = 0;
  for (int i = 0; i < input; ++i) channels += input_shape(graph, layer, i).c;
  return channels;
}

std::string fault(const Graph& graph, const Layer& layer) {
  Index channels = 0;
  for (int input : layer.inputs) {
    const Shape& in = graph[input].out;
    if (in.y != layer.out.y || in.x != layer.out.x)
      return fmt::format("joins maps of different size, {}x{} and {}x{}", in.x, in.y, layer.out.x, layer.out.y);
    channels += in.c;
  }
  return channels == layer.out.c ? "" : fmt::format("{} channels, its inputs have {}", layer.out.c, channels);
}

Box input_box(const Graph& graph, const Layer& layer, int input, const Box& out) {
  const Index by = offset(graph, layer, input);
  return {out.n, intersect({out.c.begin - by, out.c.end - by}, Range{0, input_shape(graph, layer, input).c}), out.y, out.x};
}

Box output_box(const Graph& graph, const Layer& layer, int input, const Box& in) {
  const Index by = offset(graph, layer, input);
  return {in.n, {in.c.begin + by, in.c.end + by}, in.y, in.x};
}

}  // namespace

constinit const Kind kRouteKind{
    .name = "route", .most_inputs = std::numeric_limits<int>::max(), .fault = fault, .input_box = input_box, .output_box = output_box};

}  // namespace tessera::graph
