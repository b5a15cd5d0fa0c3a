// A plan: for every array of a training, which box of it is at home on which participant, and where fused groups begin and
// end. Homes of one array are disjoint and cover it. What home means depends on the array: an activation's home computes it
// and answers for its delta; a weight's sums its gradient, keeps its momentum and updates it; an input's makes it.
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

// Where a layer's batch statistics are merged: on one participant, which sends the result to all who need it, or on everybody.
inline constexpr int kMergedByAll = -1;

struct Plan {
  Index batch = 0;
  int participants = 1;
  // Layers that are not in the graph run on this participant: it makes the graph's inputs, takes delivered tensors and gives their
  // deltas. It need not own anything else.
  int host = 0;
  // [node][participant]: boxes of the node's tensor. For input nodes: who computes that part of its delta.
  std::vector<std::vector<Box>> owned;
  // [node][participant], inputs only (empty rows for layers): who makes which box.
  std::vector<std::vector<Box>> made;
  // [node][participant]: boxes (filter, input channel, ky, kx) of the node's weights, whole filters; biases, scales and rolling
  // statistics are at home with their filter. Empty boxes for layers without weights.
  std::vector<std::vector<Box>> weights;
  std::vector<int> statistics;  // [node]: kMergedByAll, or the participant that merges the parts
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

  const Box& box(int node, int participant) const { return at(owned, node, participant); }
  // Filters whose parameters are at home there.
  geometry::Range filters(int node, int participant) const { return at(weights, node, participant).n; }
  // What `participant` can give of a tensor: of an input what it makes, else what it owns.
  const Box& source(int node, int participant) const {
    return made[static_cast<std::size_t>(node)].empty() ? box(node, participant) : at(made, node, participant);
  }
  friend bool operator==(const Plan&, const Plan&) = default;

 private:
  static const Box& at(const std::vector<std::vector<Box>>& table, int node, int participant) {
    return table[static_cast<std::size_t>(node)][static_cast<std::size_t>(participant)];
  }
};

// The node's layer is cut along channels: its owners have some filters each, and parts of the delta of its input that have to be
// added up.
bool cut_along_channels(const Plan& plan, const graph::Graph& graph, int node);

// Group number of every node, by forward starts or backward ends; -1 for input nodes.
std::vector<int> forward_groups(const Plan& plan, const graph::Graph& graph);
std::vector<int> backward_groups(const Plan& plan, const graph::Graph& graph);

// Which participants own anything, and so compute and have gradients.
std::vector<bool> contributors(const Plan& plan);

base::Status validate(const Plan& plan, const graph::Graph& graph);

// A run of layers that are cut the same way, up to `end` (a node, exclusive).
struct Segment {
  int end = 0;
  geometry::GridShares cut;
  // Participant of each cell of the cut, in cell order. A participant has at most one cell.
  std::vector<int> participants;
};

// How to cut, independent of batch and image size, so that a plan can be made again for another of either.
struct Layout {
  std::vector<Segment> segments;  // ascending; the last one goes to the end of the graph. Inputs' deltas are cut as the first
  int participant_count = 1;
  int host = 0;
  std::vector<int> forward_starts;  // nodes; empty: every layer its own group
  std::vector<int> backward_ends;   // nodes; empty: every layer its own group
  WireType wire = WireType::kFloat32;
  bool recompute = false;
  bool boundary_first = false;
  bool single_pass = false;
  bool merge_at_home = false;  // statistics go to one participant each instead of all

  // The segment of a node; inputs belong to the first.
  const Segment& segment(int node) const;
};

// Groups begin and end at least where segments do, and at every layer that is cut along channels. Weights are at home with those who
// compute their gradient, divided evenly. Errors: a layout that does not fit the graph.
base::Result<Plan> make_plan(const graph::Graph& graph, Index batch, const Layout& layout);

nlohmann::json to_json(const Plan& plan);
// Parses and validates against `graph`; `json` may come from another machine.
base::Result<Plan> plan_from_json(const nlohmann::json& json, const graph::Graph& graph);

}  // namespace tessera::plan
