// Which cells a layer reads, by trying every position: the definition that graph::input_box and output_box are held to.
#pragma once

#include "graph/graph.hpp"

namespace tessera::testing {

// The hull of the cells of inputs[input] read for the cells of `out`.
geometry::Box brute_input_box(const graph::Graph& graph, int layer, int input, const geometry::Box& out);

// The hull of the output cells that read a cell of `in` of inputs[input].
geometry::Box brute_output_box(const graph::Graph& graph, int layer, int input, const geometry::Box& in);

}  // namespace tessera::testing
