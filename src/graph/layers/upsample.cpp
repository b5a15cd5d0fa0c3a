// Every cell stride x stride times, scaled.
#include <fmt/format.h>

#include "graph/layers/kind.hpp"

namespace tessera::graph {
namespace {

std::string fault(const Graph& graph, const Layer& layer) {
  const Shape& in = input_shape(graph, layer);
  const bool follows = layer.out == Shape{in.c, in.y * layer.stride, in.x * layer.stride};
  return follows ? "" : "its shape does not follow from its input";
}

Box input_box(const Graph&, const Layer& layer, int, const Box& out) {
  return {out.n, out.c, shrink(out.y, layer.stride), shrink(out.x, layer.stride)};
}

Box output_box(const Graph&, const Layer& layer, int, const Box& in) {
  return {in.n, in.c, grow(in.y, layer.stride), grow(in.x, layer.stride)};
}

std::string text(const Layer& layer) { return fmt::format("x{}", layer.stride); }

}  // namespace

constinit const Kind kUpsampleKind{.name = "upsample", .fault = fault, .input_box = input_box, .output_box = output_box, .text = text};

}  // namespace tessera::graph
