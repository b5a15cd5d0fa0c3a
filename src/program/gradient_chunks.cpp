#include "program/gradient_chunks.hpp"

#include <algorithm>

namespace tessera::program {

using geometry::Box;
using geometry::Index;
using geometry::Range;
using graph::Graph;
using plan::Plan;

namespace {

constexpr Index kLargestChunk = Index{1} << 16;  // elements: what is on the way at a time stays small beside the tensors
constexpr Index kChunkAlignment = 16;            // elements: chunks of different owners do not share a cache line

std::size_t at(int i) { return static_cast<std::size_t>(i); }

Index elements_of_filter(const Graph& graph, int node) { return static_cast<Index>(graph.weights(node)) / graph[node].out.c; }

bool cut_by_channels(const Graph& graph, const Plan& plan, int node) {
  int owners = 0;
  for (int p = 0; p < plan.participants; ++p) {
    const Box& box = plan.box(node, p);
    if (box.empty()) continue;
    Box all = Box::whole(plan.batch, graph[node].out);
    all.c = box.c;
    if (!(box == all)) return false;
    ++owners;
  }
  return graph[node].trainable() && owners > 1;
}

class Divider {
 public:
  Divider(const Graph& graph, const Plan& plan) : graph_(graph), plan_(plan) {}

  // Among all participants, whoever computes it.
  void divide_evenly(int node) {
    const int participants = plan_.participants;
    const Index total = summed_elements(graph_, node), most = kLargestChunk * participants;
    for (Index begin = 0; begin < total; begin += most, ++round_) {
      const Index end = std::min(total, begin + most), share = (end - begin + participants - 1) / participants;
      const Index width = (share + kChunkAlignment - 1) / kChunkAlignment * kChunkAlignment;
      // Layers too small for everybody go to another owner each time.
      for (Index i = 0; begin + i * width < end; ++i)
        chunks_.push_back(
            {node, {begin + i * width, std::min(end, begin + (i + 1) * width)}, static_cast<int>((i + round_) % participants), round_});
    }
  }

  // To those who compute it: whole filters, then the biases.
  void divide_by_owner(int node) {
    const Index filter = elements_of_filter(graph_, node), weights = static_cast<Index>(graph_.weights(node));
    const Index most = std::max<Index>(1, kLargestChunk / filter);
    bool more = true;
    for (Index turn = 0; more; ++turn, round_ += more) {
      more = false;
      for (int p = 0; p < plan_.participants; ++p) {
        const Range own = plan_.box(node, p).c;
        const Range some = geometry::intersect(own, {own.begin + turn * most, own.begin + (turn + 1) * most});
        if (some.empty()) continue;
        chunks_.push_back({node, {some.begin * filter, some.end * filter}, p, round_});
        more = true;
      }
    }
    if (graph_[node].batch_normalize) return;
    for (int p = 0; p < plan_.participants; ++p)
      if (const Range own = plan_.box(node, p).c; !own.empty())
        chunks_.push_back({node, {weights + own.begin, weights + own.end}, p, round_});
    ++round_;
  }

  std::vector<GradientChunk> take() { return std::move(chunks_); }

 private:
  const Graph& graph_;
  const Plan& plan_;
  std::vector<GradientChunk> chunks_;
  int round_ = 0;
};

}  // namespace

bool WeightsRead::covers(const WeightsRead& other) const { return filters.contains(other.filters) && channels.contains(other.channels); }

bool Sharding::partial() const { return std::find(by_channels.begin(), by_channels.end(), true) != by_channels.end(); }

bool Sharding::covers(const Sharding& other) const {
  for (std::size_t node = 0; node < reads.size(); ++node)
    for (std::size_t p = 0; p < reads[node].size() && by_channels[node]; ++p)
      if (!reads[node][p].covers(other.reads[node][p])) return false;
  return true;
}

Index summed_elements(const Graph& graph, int node) {
  const auto& layer = graph[node];
  if (!layer.trainable()) return 0;
  return static_cast<Index>(graph.weights(node)) + (layer.batch_normalize ? 0 : layer.out.c);
}

Range gradient_window(const Graph& graph, const Plan& plan, int node, int participant) {
  const Range all{0, summed_elements(graph, node)};
  if (!graph[node].batch_normalize || !cut_by_channels(graph, plan, node)) return all;
  const Range filters = plan.box(node, participant).c;
  const Index filter = elements_of_filter(graph, node);
  return {filters.begin * filter, filters.end * filter};
}

Sharding sharding(const Graph& graph, const Plan& plan, std::vector<std::vector<WeightsRead>> reads) {
  Sharding result;
  result.reads = std::move(reads);
  for (int node = 0; node < graph.size(); ++node) result.by_channels.push_back(cut_by_channels(graph, plan, node));
  if (plan.participants < 2) return result;
  Divider divider(graph, plan);
  for (int node = graph.size() - 1; node >= graph.first_layer(); --node) {
    if (result.by_channels[at(node)])
      divider.divide_by_owner(node);
    else
      divider.divide_evenly(node);
  }
  result.chunks = divider.take();
  return result;
}

Range fresh_channels(const Graph& graph, const Sharding& sharding, const GradientChunk& chunk, int taker) {
  const Range all{0, graph.input_channels(chunk.node)};
  if (!sharding.by_channels[at(chunk.node)]) return all;
  const WeightsRead& read = sharding.reads[at(chunk.node)][at(taker)];
  const Index filter = elements_of_filter(graph, chunk.node), weights = static_cast<Index>(graph.weights(chunk.node));
  const bool biases = chunk.elements.begin >= weights;
  const Range filters = biases ? Range{chunk.elements.begin - weights, chunk.elements.end - weights}
                               : Range{chunk.elements.begin / filter, chunk.elements.end / filter};
  if (!geometry::intersect(read.filters, filters).empty()) return all;
  return biases ? Range{} : read.channels;
}

Index fresh_elements(const Graph& graph, const Sharding& sharding, const GradientChunk& chunk, int taker) {
  const Index channels = fresh_channels(graph, sharding, chunk, taker).size(), all = graph.input_channels(chunk.node);
  return channels == all ? chunk.elements.size() : chunk.elements.size() / all * channels;
}

}  // namespace tessera::program
