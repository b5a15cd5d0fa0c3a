// A plan: for every tensor of a graph, which box each participant owns, and where fused groups begin and end.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "geometry/partition.hpp"
#include "graph/graph.hpp"

namespace tessera::plan {

using geometry::Box;
using geometry::Index;

// Elements of halos and activations on the wire. fp16 is approximate and never a default.
enum class WireType { kFloat32, kFloat16 };

// Participant 0 is the coordinator: it holds the range's inputs and takes its delivered tensors whatever it owns.
struct Plan {
  Index batch = 0;
  int participants = 1;
  // [node][participant]; the boxes of a node are disjoint and cover its tensor. For input nodes: who computes that
  // part of its delta.
  std::vector<std::vector<Box>> owned;
  // Nodes, ascending. Forward: the first layer of each group (the range's first layer always is one). Backward: the
  // last layer of each group (the range's last layer always is one).
  std::vector<int> forward_starts;
  std::vector<int> backward_ends;
  WireType wire = WireType::kFloat32;
  // In training, tensors inside a forward group (not read outside of it) are not kept for back-propagation but computed
  // again from what the group reads: less memory, up to a forward pass more computation, the same bits.
  bool recompute = false;
  // Of a convolution's output, what other participants fetch for the next forward group is computed first and travels while
  // the rest is computed; not where it is more than half of it. The same bits, in up to four more steps.
  bool boundary_first = false;
  // An update follows every pass: no gradient is kept from one pass to the next, and those of weights live among the tensors.
  bool single_pass = false;

  const Box& box(int node, int participant) const { return owned[static_cast<std::size_t>(node)][static_cast<std::size_t>(participant)]; }
  friend bool operator==(const Plan&, const Plan&) = default;
};

// Group number of every node, by forward starts or backward ends; -1 for input nodes.
std::vector<int> forward_groups(const Plan& plan, const graph::Graph& graph);
std::vector<int> backward_groups(const Plan& plan, const graph::Graph& graph);

// Which participants own anything, and so compute and have gradients.
std::vector<bool> contributors(const Plan& plan);

base::Status validate(const Plan& plan, const graph::Graph& graph);

// How to cut, independent of batch and image size, so that a plan can be made again for another of either.
struct Layout {
  geometry::GridShares grid;
  // Participant of each grid cell, in cell order. A participant has at most one cell.
  std::vector<int> participants;
  int participant_count = 1;
  std::vector<int> forward_starts;  // nodes; empty: every layer its own group
  std::vector<int> backward_ends;   // nodes; empty: every layer its own group
  WireType wire = WireType::kFloat32;
  bool recompute = false;
  bool boundary_first = false;
  bool single_pass = false;
  // Nodes that are cut along channels instead, each in groups of its own, by the shares of `participants`, in their order.
  geometry::Range channel_nodes = {};
  std::vector<double> channel_shares = {};
};

// Every tensor is cut by the same grid, but for those cut along channels. Errors: a layout that does not fit the graph.
base::Result<Plan> make_plan(const graph::Graph& graph, Index batch, const Layout& layout);

nlohmann::json to_json(const Plan& plan);
// Parses and validates against `graph`; `json` may come from another machine.
base::Result<Plan> plan_from_json(const nlohmann::json& json, const graph::Graph& graph);

}  // namespace tessera::plan
