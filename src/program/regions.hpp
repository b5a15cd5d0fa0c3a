// Which boxes every participant computes, and which it lacks: the geometry behind programs, the same for all of them.
#pragma once

#include <vector>

#include "graph/graph.hpp"
#include "plan/plan.hpp"

namespace tessera::program {

using geometry::Box;

enum class Mode : int;

// Boxes of one tensor that `participant` needs and does not have. Whoever is the boxes' source (Plan::source) sends them.
struct Need {
  int node = 0;
  int participant = 0;
  std::vector<Box> boxes;  // disjoint
};

struct Regions {
  // [node][participant], empty boxes where there is nothing.
  using Table = std::vector<std::vector<Box>>;

  // Computed by the forward pass: the hull of the owned box and what later layers of the same group read. Empty for
  // input nodes.
  Table computed;
  // computed plus everything fetched in the forward pass (hull), and also what back-propagation fetches (hull).
  Table forward_held;
  Table held;
  // The delta of a tensor that a participant needs: the owned box and what earlier layers of the same backward group
  // touch. Empty for tensors that back-propagation does not reach.
  Table delta;
  // Winners of max-pools that a participant holds: computed plus fetched.
  Table winners;

  // [group]: what is missing before a group's first layer. Forward: of stored tensors.
  std::vector<std::vector<Need>> forward_needs;
  // Backward, before a group's last layer: of stored tensors (batch-norm and activations need them wherever the delta
  // is), of winners, and of deltas that later groups finished.
  std::vector<std::vector<Need>> stored_needs;
  std::vector<std::vector<Need>> winner_needs;
  std::vector<std::vector<Need>> delta_needs;

  std::vector<int> forward_group;  // of each node; -1 for inputs
  std::vector<int> backward_group;
  std::vector<graph::DeltaSources> sources;  // of each node
  std::vector<bool> by_channels;             // of each node: plan::cut_along_channels
  std::vector<bool> fetched_forward;         // of each node: some part of it is fetched in the forward pass

  const Box& at(const Table& table, int node, int participant) const {
    return table[static_cast<std::size_t>(node)][static_cast<std::size_t>(participant)];
  }
};

// The part of inputs[use.input]'s delta that a participant computes at use.layer: all it needs when both layers are in
// one backward group, else only what it owns. Of a layer that is cut along channels: its filters' part of all that they touch, to be
// added up at the homes.
Box contribution_box(const graph::Graph& graph, const Regions& regions, const plan::Plan& plan, const graph::Use& use, int node,
                     int participant);

// True when the delta of `node` comes from outside the graph alone: then it is fetched from the host directly.
bool only_external(const graph::DeltaSources& sources);

// Back-propagation through this layer reads its stored tensor: batch norm, or an activation that is not linear.
bool backward_reads_stored(const graph::Layer& layer);

Regions regions(const graph::Graph& graph, const plan::Plan& plan, Mode mode);

// Whoever makes a part of an input makes all of it that it reads: what a plan must fulfil, besides plan::validate(), to be compiled.
[[nodiscard]] base::Status check_makers(const graph::Graph& graph, const plan::Plan& plan, Mode mode);

}  // namespace tessera::program
