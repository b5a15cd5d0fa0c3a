// The split scheduler's view of a network, from its graph.
#include <algorithm>

#include "graph/footprint.hpp"
#include "plan/split_scheduler.hpp"

namespace tessera::plan {
namespace {

constexpr double kFloatBytes = 4;
constexpr double kOperations = 2 * 3;                        // per multiply-add, forward and for both gradients
constexpr double kParameterCopies = 3;                       // weights, gradients, momentum
constexpr double kVectorsPerFilter = 1, kWithBatchNorm = 4;  // bias; scale, mean and variance

double parameters(const graph::Graph& graph, int node) {
  const graph::Layer& layer = graph[node];
  if (!layer.trainable()) return 0;
  return static_cast<double>(graph.weights(node)) +
         static_cast<double>(layer.out.c) * (layer.batch_normalize ? kWithBatchNorm : kVectorsPerFilter);
}

}  // namespace

SplitNetwork split_network(const graph::Graph& graph) {
  const auto uses = graph::uses(graph);
  const int first = graph.first_layer();
  SplitNetwork network;
  SplitCut cut;
  double kept = 0, widest = 0;
  for (int node = first; node < graph.size(); ++node) {
    const graph::Layer& layer = graph[node];
    const double cells = static_cast<double>(layer.out.elements());
    cut.depth = node - first + 1;
    cut.work += kOperations * static_cast<double>(graph::multiply_adds(graph, node, geometry::Box::whole(1, layer.out)));
    cut.parameter_bytes += kFloatBytes * parameters(graph, node);
    cut.memory_bytes = kParameterCopies * cut.parameter_bytes;
    kept += cells;
    widest = std::max(widest, cells);
    cut.sample_memory_bytes = kFloatBytes * (kept + 2 * widest);
    cut.activation_bytes = 0;
    cut.allowed = true;
    for (int from = 0; from <= node; ++from) {
      const auto& readers = uses[static_cast<std::size_t>(from)];
      if (!graph[from].delivered && std::none_of(readers.begin(), readers.end(), [&](const graph::Use& use) { return use.layer > node; }))
        continue;
      cut.activation_bytes += kFloatBytes * static_cast<double>(graph[from].out.elements());
      cut.allowed = cut.allowed && from >= first;
    }
    network.cuts.push_back(cut);
  }
  network.work = cut.work;
  return network;
}

}  // namespace tessera::plan
