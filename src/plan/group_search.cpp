#include "plan/group_search.hpp"

#include <algorithm>

namespace tessera::plan {

using graph::Graph;

namespace {

using Marks = std::vector<int>;

// The pattern's groups as forward starts and backward ends.
struct Pattern {
  Marks starts, ends;
};

bool makes_smaller(const Graph& graph, int node) {
  const auto& layer = graph[node];
  return layer.out.y < graph[layer.inputs[0]].out.y || layer.out.x < graph[layer.inputs[0]].out.x;
}

std::vector<Pattern> patterns(const Graph& graph) {
  const int first = graph.first_layer(), last = graph.size() - 1;
  Pattern each, shrinking, one{{first}, {last}};
  shrinking.starts.push_back(first);
  for (int node = first; node <= last; ++node) {
    each.starts.push_back(node);
    each.ends.push_back(node);
    if (node == last || !makes_smaller(graph, node)) continue;
    shrinking.starts.push_back(node + 1);
    shrinking.ends.push_back(node);
  }
  shrinking.ends.push_back(last);
  return {each, shrinking, one};
}

void toggle(Marks& marks, int node) {
  const auto place = std::lower_bound(marks.begin(), marks.end(), node);
  if (place != marks.end() && *place == node)
    marks.erase(place);
  else
    marks.insert(place, node);
}

}  // namespace

std::vector<int> starts_after_shrinking(const Graph& graph) { return patterns(graph)[1].starts; }

std::vector<int> ends_at_shrinking(const Graph& graph) { return patterns(graph)[1].ends; }

double Evaluator::operator()(const Layout& layout) {
  if (left_ <= 0) return kImpossible;
  --left_;
  const auto plan = make_plan(graph_, batch_, layout);
  return plan ? cost_(*plan) : kImpossible;
}

Choice best_pattern(Layout layout, OpenGroups open, Evaluator& evaluate) {
  Choice best{layout, kImpossible};
  for (const Pattern& pattern : patterns(evaluate.graph())) {
    if (open.forward) layout.forward_starts = pattern.starts;
    if (open.backward) layout.backward_ends = pattern.ends;
    const double seconds = evaluate(layout);
    if (seconds < best.seconds) best = {layout, seconds};
    if (!open.forward && !open.backward) break;
  }
  return best;
}

Choice descend(Choice best, OpenGroups open, Evaluator& evaluate, int most) {
  const Graph& graph = evaluate.graph();
  const int first = graph.first_layer(), last = graph.size() - 1;
  const int spare = std::max(0, evaluate.left() - most);
  const auto try_cuts = [&](Marks Layout::*marks, int begin, int end) {
    bool improved = false;
    for (int node = begin; node < end && evaluate.left() > spare; ++node) {
      Choice next = best;
      toggle(next.layout.*marks, node);
      next.seconds = evaluate(next.layout);
      if (!(next.seconds < best.seconds)) continue;
      best = std::move(next);
      improved = true;
    }
    return improved;
  };
  // The first layer always starts a group and the last always ends one.
  for (bool improved = true; improved && evaluate.left() > spare;) {
    improved = open.forward && try_cuts(&Layout::forward_starts, first + 1, last + 1);
    if (open.backward && try_cuts(&Layout::backward_ends, first, last)) improved = true;
  }
  return best;
}

}  // namespace tessera::plan
