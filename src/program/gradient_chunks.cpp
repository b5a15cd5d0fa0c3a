#include "program/gradient_chunks.hpp"

#include <algorithm>

namespace tessera::program {

using geometry::Index;

namespace {

constexpr Index kLargestChunk = Index{1} << 16;  // elements: what is on the way at a time stays small beside the tensors
constexpr Index kChunkAlignment = 16;            // elements: chunks of different owners do not share a cache line

}  // namespace

Index summed_elements(const graph::Graph& graph, int node) {
  const auto& layer = graph[node];
  if (!layer.trainable()) return 0;
  return static_cast<Index>(graph.weights(node)) + (layer.batch_normalize ? 0 : layer.out.c);
}

std::vector<GradientChunk> gradient_chunks(const graph::Graph& graph, int participants) {
  std::vector<GradientChunk> chunks;
  if (participants < 2) return chunks;
  int round = 0;
  for (int node = graph.size() - 1; node >= graph.first_layer(); --node) {
    const Index total = summed_elements(graph, node), most = kLargestChunk * participants;
    for (Index begin = 0; begin < total; begin += most, ++round) {
      const Index end = std::min(total, begin + most), share = (end - begin + participants - 1) / participants;
      const Index width = (share + kChunkAlignment - 1) / kChunkAlignment * kChunkAlignment;
      // Layers too small for everybody go to another owner each time.
      for (Index i = 0; begin + i * width < end; ++i)
        chunks.push_back({node, {begin + i * width, std::min(end, begin + (i + 1) * width)}, static_cast<int>((i + round) % participants), round});
    }
  }
  return chunks;
}

}  // namespace tessera::program
