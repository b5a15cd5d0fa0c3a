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

// The longest range from `begin` that can be wrapped. Errors: layer `begin` itself cannot be, with the reason.
base::Result<LayerRange> wrappable_range(const network& net, int begin);

// The graph of the range, for the network's current size. Errors name the first layer that cannot be wrapped, the
// reason, and the range that can be.
base::Result<graph::Graph> network_graph(const network& net, LayerRange range);

// Notes a user should know about: layers for which upstream computes something else than their names say.
std::vector<std::string> network_notes(const network& net, LayerRange range);

// Darknet's own arrays of the range's layers, by node. They stay owned by the network.
exec::Parameters network_parameters(const network& net, const graph::Graph& graph);

}  // namespace tessera::distributed
