#include "graph/footprint.hpp"

#include "base/check.hpp"
#include "graph/layers/kind.hpp"

namespace tessera::graph {

namespace {

using Footprint = Box (*)(const Graph&, const Layer&, int, const Box&);

Box footprint(const Graph& graph, int node, Footprint of_kind, int input, const Box& box) {
  if (box.empty()) return {};
  TESSERA_CHECK(of_kind, "node {} is an input", node);
  const Box result = of_kind(graph, graph[node], input, box);
  return result.empty() ? Box{} : result;
}

}  // namespace

Box input_box(const Graph& graph, int node, int input, const Box& out) {
  return footprint(graph, node, kind(graph[node]).input_box, input, out);
}

Box output_box(const Graph& graph, int node, int input, const Box& in) {
  return footprint(graph, node, kind(graph[node]).output_box, input, in);
}

Index multiply_adds(const Graph& graph, int node, const Box& out) {
  const auto of_cell = kind(graph[node]).multiply_adds;
  return of_cell ? out.elements() * of_cell(graph, graph[node]) : 0;
}

}  // namespace tessera::graph
