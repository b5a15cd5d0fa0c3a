// Which part of its inputs a layer reads for a part of its output, and the reverse.
#pragma once

#include "geometry/box.hpp"
#include "graph/graph.hpp"

namespace tessera::graph {

// The smallest box of tensor inputs[input] of `layer` that holds everything needed to compute `out` of its output.
geometry::Box input_box(const Graph& graph, int layer, int input, const geometry::Box& out);

// The smallest box of the output of `layer` that holds every cell computed from a cell in `in` of inputs[input]: whose
// delta is needed for the delta of `in`.
geometry::Box output_box(const Graph& graph, int layer, int input, const geometry::Box& in);

// What is added to the number of a channel of inputs[input] in a route's output.
Index route_offset(const Graph& graph, int route, int input);

// Multiply-adds to compute `out` cells of the output (0 for layers that only move data).
Index multiply_adds(const Graph& graph, int layer, const geometry::Box& out);

}  // namespace tessera::graph
