// Where to cut a range into fused groups: descent over single cuts, by a cost function.
#pragma once

#include <functional>
#include <limits>

#include "plan/planner.hpp"

namespace tessera::plan {

inline constexpr double kImpossible = std::numeric_limits<double>::infinity();

// A layout and what it costs.
struct Choice {
  Layout layout;
  double seconds = kImpossible;
};

// The cost of layouts, with a bound on how many are looked at: beyond it everything is impossible.
class Evaluator {
 public:
  Evaluator(const graph::Graph& graph, Index batch, const Cost& cost, int most) : graph_(graph), batch_(batch), cost_(cost), left_(most) {}

  const graph::Graph& graph() const { return graph_; }
  int left() const { return left_; }
  double operator()(const Layout& layout);

 private:
  const graph::Graph& graph_;
  const Index batch_;
  const Cost& cost_;
  int left_;
};

// Which of the two lists of groups may be changed.
struct OpenGroups {
  bool forward = false, backward = false;
};

// The groups that end at each layer that makes the map smaller: their first layers, and their last.
std::vector<int> starts_after_shrinking(const graph::Graph& graph);
std::vector<int> ends_at_shrinking(const graph::Graph& graph);

// `layout` with its open groups set to the best of three patterns: every layer its own group, a group up to each layer
// that makes the map smaller, one group.
Choice best_pattern(Layout layout, OpenGroups open, Evaluator& evaluate);

// Adds and removes single cuts for as long as that makes it faster and `most` evaluations allow.
Choice descend(Choice choice, OpenGroups open, Evaluator& evaluate, int most);

}  // namespace tessera::plan
