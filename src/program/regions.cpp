#include "program/regions.hpp"

#include "graph/footprint.hpp"
#include "graph/layers/kind.hpp"
#include "program/program.hpp"

namespace tessera::program {

using geometry::hull;
using graph::Graph;
using graph::LayerKind;
using graph::Use;
using plan::Plan;

namespace {

using HeldBoxes = std::vector<Box>;                     // disjoint or not; what one participant has of one tensor
using HeldTable = std::vector<std::vector<HeldBoxes>>;  // [node][participant]

std::size_t at(int i) { return static_cast<std::size_t>(i); }

class Builder {
 public:
  Builder(const Graph& graph, const Plan& plan, Mode mode) : graph_(graph), plan_(plan), mode_(mode), uses_(graph::uses(graph)) {
    const Regions::Table empty(graph.layers.size(), std::vector<Box>(at(plan.participants)));
    r_.computed = r_.forward_held = r_.held = r_.delta = r_.winners = empty;
    r_.forward_group = plan::forward_groups(plan, graph);
    r_.backward_group = plan::backward_groups(plan, graph);
    for (int node = 0; node < graph.size(); ++node) r_.sources.push_back(graph::delta_sources(graph, uses_[at(node)], node));
    for (int node = 0; node < graph.size(); ++node) r_.by_channels.push_back(plan::cut_along_channels(plan, graph, node));
    r_.fetched_forward.resize(graph.layers.size());
    r_.forward_needs.resize(plan.forward_starts.size() + 1);
    r_.stored_needs.resize(plan.backward_ends.size() + 1);
    r_.winner_needs = r_.delta_needs = r_.stored_needs;
  }

  Regions build() {
    compute_forward();
    fetch_forward();
    r_.held = r_.forward_held;
    if (mode_ == Mode::kTrain) {
      compute_backward();
      fetch_backward();
    }
    return std::move(r_);
  }

 private:
  bool is_input(int node) const { return graph_[node].kind == LayerKind::kInput; }

  void compute_forward() {
    for (int node = graph_.size() - 1; node >= graph_.first_layer(); --node)
      for (int p = 0; p < plan_.participants; ++p) {
        Box box = plan_.box(node, p);
        for (const Use& use : uses_[at(node)])
          if (r_.forward_group[at(use.layer)] == r_.forward_group[at(node)])
            box = hull(box, graph::input_box(graph_, use.layer, use.input, r_.at(r_.computed, use.layer, p)));
        r_.computed[at(node)][at(p)] = box;
      }
  }

  // Notes what `to` needs and does not have, and that it has it then.
  void fetch(int node, int to, const Box& need, HeldBoxes& held, std::vector<Need>& needs) {
    auto missing = geometry::subtract(need, held);
    if (missing.empty()) return;
    held.push_back(need);
    needs.push_back({node, to, std::move(missing)});
  }

  void fetch_forward() {
    for (int node = 0; node < graph_.size(); ++node) {
      std::vector<HeldBoxes> row;
      for (int p = 0; p < plan_.participants; ++p) {
        const Box start = is_input(node) ? plan_.source(node, p) : r_.at(r_.computed, node, p);
        row.push_back(start.empty() ? HeldBoxes{} : HeldBoxes{start});
        r_.forward_held[at(node)][at(p)] = start;
      }
      stored_.push_back(std::move(row));
    }
    for (int layer = graph_.first_layer(); layer < graph_.size(); ++layer) {
      const int group = r_.forward_group[at(layer)];
      for (std::size_t input = 0; input < graph_[layer].inputs.size(); ++input) {
        const int node = graph_[layer].inputs[input];
        if (r_.forward_group[at(node)] == group) continue;
        for (int p = 0; p < plan_.participants; ++p) {
          const Box need = graph::input_box(graph_, layer, static_cast<int>(input), r_.at(r_.computed, layer, p));
          fetch(node, p, need, stored_[at(node)][at(p)], r_.forward_needs[at(group)]);
          if (!r_.forward_needs[at(group)].empty() && r_.forward_needs[at(group)].back().node == node) r_.fetched_forward[at(node)] = true;
          r_.forward_held[at(node)][at(p)] = hull(r_.forward_held[at(node)][at(p)], need);
        }
      }
    }
  }

  void compute_backward() {
    for (int node = graph_.first_layer(); node < graph_.size(); ++node) {
      if (!graph_[node].backward) continue;
      for (int p = 0; p < plan_.participants; ++p) {
        Box box = plan_.box(node, p);
        for (std::size_t input = 0; input < graph_[node].inputs.size(); ++input) {
          const int source = graph_[node].inputs[input];
          if (graph_[source].backward && !r_.by_channels[at(node)] && counts(source, node, static_cast<int>(input)))
            box = hull(box, graph::output_box(graph_, node, static_cast<int>(input),
                                              contribution_box(graph_, r_, plan_, {node, static_cast<int>(input)}, source, p)));
        }
        r_.delta[at(node)][at(p)] = box;
      }
    }
  }

  // Whether this use's part of the delta survives (graph::DeltaSources).
  bool counts(int source, int layer, int input) const {
    for (const Use& use : r_.sources[at(source)].uses)
      if (use.layer == layer && use.input == input) return true;
    return false;
  }

  void fetch_backward() {
    for (int node = graph_.first_layer(); node < graph_.size(); ++node) {
      const auto& layer = graph_[node];
      if (!layer.backward) continue;
      const std::size_t group = at(r_.backward_group[at(node)]);
      bool finished_later = r_.sources[at(node)].external;
      for (const Use& use : r_.sources[at(node)].uses)
        finished_later = finished_later || r_.backward_group[at(use.layer)] != r_.backward_group[at(node)];
      for (int p = 0; p < plan_.participants; ++p) {
        const Box& need = r_.at(r_.delta, node, p);
        if (backward_reads_stored(layer)) {
          fetch(node, p, need, stored_[at(node)][at(p)], r_.stored_needs[group]);
          r_.held[at(node)][at(p)] = hull(r_.held[at(node)][at(p)], need);
        }
        if (layer.kind == LayerKind::kMaxpool) {
          const Box& computed = r_.at(r_.computed, node, p);
          HeldBoxes held;
          if (!computed.empty()) held.push_back(computed);
          fetch(node, p, need, held, r_.winner_needs[group]);
          r_.winners[at(node)][at(p)] = hull(computed, need);
        }
        if (only_external(r_.sources[at(node)])) {
          if (p != plan_.host && !need.empty()) r_.delta_needs[group].push_back({node, p, {need}});
        } else if (finished_later) {
          HeldBoxes held;
          if (!plan_.box(node, p).empty()) held.push_back(plan_.box(node, p));
          fetch(node, p, need, held, r_.delta_needs[group]);
        }
      }
    }
  }

  const Graph& graph_;
  const Plan& plan_;
  const Mode mode_;
  const std::vector<std::vector<Use>> uses_;
  HeldTable stored_;
  Regions r_;
};

}  // namespace

Box contribution_box(const Graph& graph, const Regions& regions, const Plan& plan, const Use& use, int node, int participant) {
  if (regions.by_channels[at(use.layer)]) return graph::input_box(graph, use.layer, use.input, plan.box(use.layer, participant));
  if (regions.backward_group[at(use.layer)] == regions.backward_group[at(node)]) return regions.at(regions.delta, node, participant);
  return plan.box(node, participant);
}

bool only_external(const graph::DeltaSources& sources) { return sources.external && sources.uses.empty(); }

bool backward_reads_stored(const graph::Layer& layer) {
  return layer.batch_normalize || (graph::kind(layer).activates && layer.activation != "linear");
}

Regions regions(const Graph& graph, const Plan& plan, Mode mode) { return Builder(graph, plan, mode).build(); }

base::Status check_makers(const Graph& graph, const Plan& plan, Mode mode) {
  const Regions all = regions(graph, plan, mode);
  for (int node = 0; node < graph.first_layer(); ++node)
    for (int p = 0; p < plan.participants; ++p)
      if (const Box& made = plan.source(node, p); !made.empty() && !made.contains(all.at(all.held, node, p)))
        return base::error(base::ErrorCode::kInvalidArgument, "participant {} makes a part of input {} and reads more of it", p, node);
  return {};
}

}  // namespace tessera::program
