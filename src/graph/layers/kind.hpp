// What geometry and planning must know of a layer kind; each is a file of this folder and a row of kind()'s table.
#pragma once

#include <string>

#include "graph/graph.hpp"

namespace tessera::graph {

using geometry::Box;
using geometry::Range;

struct Kind {
  const char* name;
  int least_inputs = 1, most_inputs = 1;
  // Why its output or its parameters do not follow from its inputs; empty when they do.
  std::string (*fault)(const Graph& graph, const Layer& layer) = nullptr;
  // footprint.hpp's input_box() and output_box(), of boxes that are not empty. A result is empty where any of its ranges is.
  Box (*input_box)(const Graph& graph, const Layer& layer, int input, const Box& out) = nullptr;
  Box (*output_box)(const Graph& graph, const Layer& layer, int input, const Box& in) = nullptr;
  // Multiply-adds for a cell of its output; null: it only moves data.
  Index (*multiply_adds)(const Graph& graph, const Layer& layer) = nullptr;
  // Upstream's CPU code replaces its input's delta instead of adding to it.
  bool (*replaces_delta)(const Layer& layer) = nullptr;
  bool activates = false;  // an activation comes last, and is undone first
  // What else decides about its computation, for printed plans: "3x3/2 leaky".
  std::string (*text)(const Layer& layer) = nullptr;
};

extern const Kind kInputKind, kConvolutionalKind, kMaxpoolKind, kRouteKind, kShortcutKind, kUpsampleKind, kReorgKind;

const Kind& kind(LayerKind kind);
inline const Kind& kind(const Layer& layer) { return kind(layer.kind); }

inline const Shape& input_shape(const Graph& graph, const Layer& layer, int input = 0) {
  return graph[layer.inputs[static_cast<std::size_t>(input)]].out;
}

// Of layers that make `factor` cells of one along rows and columns, or the other way round.
inline Range shrink(Range range, Index factor) {
  return {geometry::floor_divide(range.begin, factor), geometry::ceil_divide(range.end, factor)};
}
inline Range grow(Range range, Index factor) { return {range.begin * factor, range.end * factor}; }

// An output that does not follow from the input of a sliding window; empty when it does.
std::string window_fault(const Shape& in, const Layer& layer);

}  // namespace tessera::graph
