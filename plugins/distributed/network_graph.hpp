// A range of a parsed Darknet network as a graph, and its arrays as parameters.
#pragma once

#include "base/result.hpp"
#include "exec/parameters.hpp"
#include "graph/graph.hpp"

struct network;

namespace tessera::distributed {

// Layers [begin, end) of the network.
struct LayerRange {
  int begin = 0;
  int end = 0;
};

enum class Purpose {
  kTraining,
  kInference,  // forward passes only; nothing is needed of momentum and deltas
};

// The longest range from `begin` that can be wrapped. Errors: layer `begin` itself cannot be, with the reason.
base::Result<LayerRange> wrappable_range(const network& net, int begin);

// All ranges outside `taken` that hold a convolution and can be wrapped with results equal to upstream's, ascending.
// Layers for which network_notes() has something to say are in none.
std::vector<LayerRange> equivalent_ranges(const network& net, LayerRange taken);

// Why a layer outside such ranges is not in one; empty when only its neighbours keep it out.
std::string reason_against(const network& net, int layer);

// The graph of the range, for the network's current size. Errors name the first layer that cannot be wrapped, the
// reason, and the range that can be.
base::Result<graph::Graph> network_graph(const network& net, LayerRange range);

// Notes a user should know about: layers for which upstream computes something else than their names say.
std::vector<std::string> network_notes(const network& net, LayerRange range);

// Darknet's own arrays of the range's layers, by node; empty where the network has none. They stay owned by the network.
exec::Parameters network_parameters(const network& net, const graph::Graph& graph);

}  // namespace tessera::distributed
