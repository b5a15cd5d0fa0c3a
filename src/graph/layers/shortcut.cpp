// alpha * the layer before + beta * others (whose maps and channels may differ), activation.
#include <fmt/format.h>

#include <limits>

#include "geometry/pairs.hpp"
#include "graph/layers/kind.hpp"

namespace tessera::graph {
namespace {

using geometry::Pairs;

std::string fault(const Graph& graph, const Layer& layer) {
  const Shape& prev = input_shape(graph, layer);
  if (!(prev == layer.out)) return "its output differs in shape from the layer before it";
  const int inputs = static_cast<int>(layer.inputs.size());
  if (inputs > 2 && (layer.alpha != 1 || layer.beta != 1)) return "several inputs with factors";
  if (derivative_needs_input(layer.activation)) return fmt::format("activation={} cannot be cut into tiles", layer.activation);
  for (int input = 1; input < inputs; ++input)
    if (const Shape& from = input_shape(graph, layer, input); from.x / prev.x != from.y / prev.y || prev.x / from.x != prev.y / from.y)
      return fmt::format("maps of {}x{} and {}x{} do not fit together", from.x, from.y, prev.x, prev.y);
  return {};
}

Box input_box(const Graph& graph, const Layer& layer, int input, const Box& out) {
  if (input == 0) return out;
  const Shape& from = input_shape(graph, layer, input);
  return {out.n, intersect(out.c, Range{0, from.c}), Pairs(from.y, layer.out.y).from_range(out.y),
          Pairs(from.x, layer.out.x).from_range(out.x)};
}

Box output_box(const Graph& graph, const Layer& layer, int input, const Box& in) {
  if (input == 0) return in;
  const Shape& from = input_shape(graph, layer, input);
  return {in.n, intersect(in.c, Range{0, layer.out.c}), Pairs(from.y, layer.out.y).out_range(in.y),
          Pairs(from.x, layer.out.x).out_range(in.x)};
}

std::string text(const Layer& layer) { return layer.activation; }

}  // namespace

constinit const Kind kShortcutKind{.name = "shortcut",
                                   .least_inputs = 2,
                                   .most_inputs = std::numeric_limits<int>::max(),
                                   .fault = fault,
                                   .input_box = input_box,
                                   .output_box = output_box,
                                   .activates = true,
                                   .text = text};

}  // namespace tessera::graph
