// How the gradient of a batch, the optimiser and fresh weights are divided among participants. Every participant computes a
// part of each layer's gradient from the boxes it owns; the parts are summed in chunks, each by its owner, who also keeps
// the momentum of the chunk's weights and updates them for all who read them (the optimiser-state sharding of ZeRO,
// arXiv:1910.02054).
//
// Where a layer is cut along channels alone, its owners compute the whole gradient of their own filters: nothing is summed,
// and of others' filters they take only the input channels that their part of back-propagation reads.
#pragma once

#include <vector>

#include "geometry/box.hpp"
#include "graph/graph.hpp"
#include "plan/plan.hpp"

namespace tessera::program {

struct GradientChunk {
  int node = 0;
  geometry::Range elements;  // of the layer's summed gradient: [out.c][in.c][kernel][kernel], then biases without batch norm
  int owner = 0;             // participant
  int round = 0;             // chunks of one round travel together, at most one for every owner
  friend bool operator==(const GradientChunk&, const GradientChunk&) = default;
};

// What a participant reads of a layer's weights: all of some filters, and some input channels of all filters.
struct WeightsRead {
  geometry::Range filters, channels;
  bool covers(const WeightsRead& other) const;
  friend bool operator==(const WeightsRead&, const WeightsRead&) = default;
};

struct Sharding {
  // In the order in which back-propagation finishes layers; within a layer by ascending rounds. Empty for one participant:
  // nothing has to be summed.
  std::vector<GradientChunk> chunks;
  std::vector<bool> by_channels;                // [node]: cut along channels alone; chunks are whole filters, or biases, of their owner
  std::vector<std::vector<WeightsRead>> reads;  // [node][participant]

  // Some participants lack some weights after an update.
  bool partial() const;
  // Whoever has what this one reads has what `other` reads.
  bool covers(const Sharding& other) const;
};

// Elements of a layer's gradient that are summed over participants. Gradients of batch norm are not among them: they come
// from exchanged sums and are complete everywhere. 0 for layers without weights.
geometry::Index summed_elements(const graph::Graph& graph, int node);

// The part of these elements that a participant's own gradient is of.
geometry::Range gradient_window(const graph::Graph& graph, const plan::Plan& plan, int node, int participant);

// `reads`: of a program in training or in test, as its regions say.
Sharding sharding(const graph::Graph& graph, const plan::Plan& plan, std::vector<std::vector<WeightsRead>> reads);

// The input channels of a chunk's filters whose fresh values `taker` reads: all for whole chunks (biases among them).
geometry::Range fresh_channels(const graph::Graph& graph, const Sharding& sharding, const GradientChunk& chunk, int taker);
// Elements of those.
geometry::Index fresh_elements(const graph::Graph& graph, const Sharding& sharding, const GradientChunk& chunk, int taker);

}  // namespace tessera::program
