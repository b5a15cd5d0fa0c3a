// A tensor made outside the graph.
#include "graph/layers/kind.hpp"

namespace tessera::graph {

constinit const Kind kInputKind{.name = "input", .least_inputs = 0, .most_inputs = 0};

}  // namespace tessera::graph
