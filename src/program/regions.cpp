#include "program/regions.hpp"

#include "graph/footprint.hpp"

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
    r_.forward_fetches.resize(plan.forward_starts.size() + 1);
    r_.stored_fetches.resize(plan.backward_ends.size() + 1);
    r_.winner_fetches = r_.delta_fetches = r_.stored_fetches;
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

  // Who has the whole of what others fetch: the owner, or for inputs the coordinator.
  Box source_box(int node, int participant) const {
    if (!is_input(node)) return plan_.box(node, participant);
    return participant == 0 ? Box::whole(plan_.batch, graph_[node].out) : Box{};
  }

  // Fetches what `to` needs and does not have, and notes that it has it then.
  void fetch(int node, int to, const Box& need, HeldBoxes& held, std::vector<Fetch>& fetches) {
    for (const Box& missing : geometry::subtract(need, held))
      for (int from = 0; from < plan_.participants; ++from) {
        const Box part = geometry::intersect(missing, source_box(node, from));
        if (from == to || part.empty()) continue;
        fetches.push_back({node, from, to, part});
        held.push_back(part);
      }
  }

  void fetch_forward() {
    for (int node = 0; node < graph_.size(); ++node) {
      std::vector<HeldBoxes> row;
      for (int p = 0; p < plan_.participants; ++p) {
        const Box start = is_input(node) ? source_box(node, p) : r_.at(r_.computed, node, p);
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
          fetch(node, p, need, stored_[at(node)][at(p)], r_.forward_fetches[at(group)]);
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
          if (graph_[source].backward && counts(source, node, static_cast<int>(input)))
            box = hull(box, graph::output_box(graph_, node, static_cast<int>(input),
                                              contribution_box(r_, plan_, {node, static_cast<int>(input)}, source, p)));
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
          fetch(node, p, need, stored_[at(node)][at(p)], r_.stored_fetches[group]);
          r_.held[at(node)][at(p)] = hull(r_.held[at(node)][at(p)], need);
        }
        if (layer.kind == LayerKind::kMaxpool) {
          const Box& computed = r_.at(r_.computed, node, p);
          HeldBoxes held;
          if (!computed.empty()) held.push_back(computed);
          fetch(node, p, need, held, r_.winner_fetches[group]);
          r_.winners[at(node)][at(p)] = hull(computed, need);
        }
        if (only_external(r_.sources[at(node)])) {
          if (p != 0 && !need.empty()) r_.delta_fetches[group].push_back({node, 0, p, need});
        } else if (finished_later) {
          HeldBoxes held;
          if (!plan_.box(node, p).empty()) held.push_back(plan_.box(node, p));
          fetch(node, p, need, held, r_.delta_fetches[group]);
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

Box contribution_box(const Regions& regions, const Plan& plan, const Use& use, int node, int participant) {
  if (regions.backward_group[at(use.layer)] == regions.backward_group[at(node)]) return regions.at(regions.delta, node, participant);
  return plan.box(node, participant);
}

bool only_external(const graph::DeltaSources& sources) { return sources.external && sources.uses.empty(); }

bool backward_reads_stored(const graph::Layer& layer) {
  const bool activates = layer.kind == LayerKind::kConvolutional || layer.kind == LayerKind::kShortcut;
  return layer.batch_normalize || (activates && layer.activation != "linear");
}

Regions regions(const Graph& graph, const Plan& plan, Mode mode) { return Builder(graph, plan, mode).build(); }

}  // namespace tessera::program
