#include "tests/support/random_graph.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <numeric>

namespace tessera::testing {

using geometry::Box;
using geometry::Index;
using geometry::Range;
using geometry::Shape;
using graph::Graph;
using graph::Layer;
using graph::LayerKind;

namespace {

constexpr Index kMostRows = 26;
constexpr Index kMostChannels = 16;

const std::vector<std::string> kActivations = {"linear", "leaky", "relu", "logistic", "tanh"};

int last(const Graph& graph) { return graph.size() - 1; }
const Shape& last_shape(const Graph& graph) { return graph[last(graph)].out; }

Layer convolutional(Rng& rng, const Graph& graph) {
  const Shape& in = last_shape(graph);
  Layer layer;
  layer.kind = LayerKind::kConvolutional;
  layer.kernel = rng.between(1, 7);
  layer.stride = rng.between(1, 3);
  layer.pad = rng.chance(0.3) ? 0 : rng.chance(0.7) ? layer.kernel / 2 : rng.between(0, layer.kernel + 1);
  if (in.y + 2 * layer.pad < layer.kernel || in.x + 2 * layer.pad < layer.kernel) layer.pad = layer.kernel;
  layer.inputs = {last(graph)};
  layer.out = {rng.between(1, 4), (in.y + 2 * layer.pad - layer.kernel) / layer.stride + 1,
               (in.x + 2 * layer.pad - layer.kernel) / layer.stride + 1};
  layer.batch_normalize = rng.chance(0.6);
  layer.activation = rng.pick(kActivations);
  return layer;
}

Layer maxpool(Rng& rng, const Graph& graph) {
  const Shape& in = last_shape(graph);
  Layer layer;
  layer.kind = LayerKind::kMaxpool;
  layer.kernel = rng.pick(std::vector<int>{2, 2, 2, 3, 5, 9, 13});
  layer.stride = layer.kernel == 2 ? rng.between(1, 2) : layer.kernel == 3 ? rng.between(1, 3) : 1;
  layer.pad = layer.kernel - 1;
  layer.inputs = {last(graph)};
  layer.out = {in.c, (in.y - 1) / layer.stride + 1, (in.x - 1) / layer.stride + 1};
  return layer;
}

Layer route(Rng& rng, const Graph& graph) {
  Layer layer;
  layer.kind = LayerKind::kRoute;
  const int first = static_cast<int>(rng.below(static_cast<std::size_t>(graph.size())));
  layer.inputs = {first};
  layer.out = graph[first].out;
  for (int node = 0; node < graph.size() && layer.inputs.size() < 3; ++node) {
    const Shape& other = graph[node].out;
    if (other.y != layer.out.y || other.x != layer.out.x || layer.out.c + other.c > kMostChannels || !rng.chance(0.6)) continue;
    layer.inputs.push_back(node);
    layer.out.c += other.c;
  }
  return layer;
}

Layer shortcut(Rng& rng, const Graph& graph) {
  Layer layer;
  layer.kind = LayerKind::kShortcut;
  layer.out = last_shape(graph);
  layer.inputs = {last(graph), static_cast<int>(rng.below(static_cast<std::size_t>(graph.size())))};
  layer.activation = rng.pick(kActivations);
  layer.alpha = rng.chance(0.2) ? 0.5f : 1.0f;
  layer.beta = rng.chance(0.2) ? 2.0f : 1.0f;
  return layer;
}

Layer factor(Rng& rng, const Graph& graph, LayerKind kind, bool reverse) {
  const Shape& in = last_shape(graph);
  const int s = kind == LayerKind::kReorg ? 2 : rng.between(2, 3);
  Layer layer;
  layer.kind = kind;
  layer.stride = s;
  layer.reverse = reverse;
  layer.inputs = {last(graph)};
  if (kind == LayerKind::kUpsample)
    layer.out = {in.c, in.y * s, in.x * s};
  else if (reverse)
    layer.out = {in.c / (s * s), in.y * s, in.x * s};
  else
    layer.out = {in.c * s * s, in.y / s, in.x / s};
  return layer;
}

Layer random_layer(Rng& rng, const Graph& graph) {
  switch (rng.between(0, 11)) {
    case 0:
    case 1:
      return maxpool(rng, graph);
    case 2:
    case 3:
      return route(rng, graph);
    case 4:
    case 5:
      return shortcut(rng, graph);
    case 6:
      return factor(rng, graph, LayerKind::kUpsample, false);
    case 7:
      return factor(rng, graph, LayerKind::kReorg, rng.chance(0.5));
    default:
      return convolutional(rng, graph);
  }
}

bool small(const Shape& shape) {
  return shape.c <= kMostChannels && shape.y <= kMostRows && shape.x <= kMostRows && shape.elements() <= 3000;
}

std::vector<int> random_marks(Rng& rng, const Graph& graph) {
  const double density = rng.pick(std::vector<double>{0, 0.2, 0.5, 1});
  std::vector<int> marks;
  for (int node = graph.first_layer(); node < graph.size(); ++node)
    if (rng.chance(density)) marks.push_back(node);
  return marks;
}

std::vector<double> random_shares(Rng& rng, int parts, bool equal) {
  std::vector<double> shares(static_cast<std::size_t>(parts), 1.0);
  if (!equal)
    for (double& share : shares) share = rng.chance(0.05) ? 0.0 : rng.uniform() + 0.05;
  if (std::accumulate(shares.begin(), shares.end(), 0.0) <= 0) shares[0] = 1;
  return shares;
}

}  // namespace

Graph random_graph(Rng& rng, int most_layers) {
  Graph graph;
  const int inputs = rng.chance(0.25) ? 2 : 1;
  for (int i = 0; i < inputs; ++i) {
    Layer input;
    input.source = i - 1;
    input.out = {rng.between(1, 4), rng.between(3, 17), rng.between(3, 17)};
    if (rng.chance(0.4)) input.out = {4, 2 * rng.between(2, 8), 2 * rng.between(2, 8)};  // fits reorg
    input.backward = i > 0 || rng.chance(0.5);
    graph.layers.push_back(input);
  }
  const int layers = rng.between(1, most_layers);
  while (graph.size() < inputs + layers) {
    Layer layer = random_layer(rng, graph);
    layer.source = graph.size();
    layer.delivered = rng.chance(0.15);
    if (!small(layer.out)) continue;
    graph.layers.push_back(layer);
    if (!graph::validate(graph)) graph.layers.pop_back();
  }
  graph.layers.back().delivered = rng.chance(0.95);
  if (rng.chance(0.15)) {  // a stopbackward
    const int frozen = rng.between(0, graph.size() - 2);
    for (int node = 0; node <= frozen; ++node) graph.layers[static_cast<std::size_t>(node)].backward = false;
  }
  return graph;
}

plan::Layout random_layout(Rng& rng, const Graph& graph, Index batch) {
  struct Grid {
    int n, y, x;
  };
  const auto [n, y, x] = rng.pick(std::vector<Grid>{
      {1, 1, 1}, {1, 2, 2}, {1, 3, 2}, {1, 1, 5}, {1, 4, 4}, {1, 1, 2}, {1, 2, 1}, {2, 1, 1}, {2, 2, 1}, {3, 1, 2}, {2, 2, 2}});
  const bool equal = rng.chance(0.5);
  plan::Layout layout;
  layout.grid = {random_shares(rng, static_cast<int>(std::min<Index>(n, batch)), equal), random_shares(rng, y, equal),
                 random_shares(rng, x, equal)};
  const int cells = static_cast<int>(layout.grid.cells());
  const bool idle_coordinator = rng.chance(0.4);
  layout.participant_count = cells + (idle_coordinator ? 1 : 0);
  for (int cell = 0; cell < cells; ++cell) layout.participants.push_back(cell + (idle_coordinator ? 1 : 0));
  rng.shuffle(layout.participants);
  layout.forward_starts = random_marks(rng, graph);
  layout.backward_ends = random_marks(rng, graph);
  layout.recompute = rng.chance(0.4);
  layout.boundary_first = rng.chance(0.5);
  layout.single_pass = rng.chance(0.5);
  if (cells > 1 && rng.chance(0.4)) {
    const int begin = rng.between(graph.first_layer(), graph.size() - 1);
    layout.channel_nodes = {begin, rng.chance(0.5) ? graph.size() : rng.between(begin + 1, graph.size())};
    layout.channel_shares = random_shares(rng, cells, equal);
  }
  return layout;
}

plan::Plan random_free_plan(Rng& rng, const Graph& graph, Index batch) {
  plan::Plan plan;
  plan.batch = batch;
  plan.participants = rng.between(2, 5);
  plan.forward_starts = random_marks(rng, graph);
  plan.backward_ends = random_marks(rng, graph);
  if (plan.forward_starts.empty() || plan.forward_starts.front() != graph.first_layer())
    plan.forward_starts.insert(plan.forward_starts.begin(), graph.first_layer());
  if (plan.backward_ends.empty() || plan.backward_ends.back() != graph.size() - 1) plan.backward_ends.push_back(graph.size() - 1);
  for (int node = 0; node < graph.size(); ++node) {
    std::vector<Box> boxes = {Box::whole(batch, graph[node].out)};
    while (static_cast<int>(boxes.size()) < plan.participants && rng.chance(0.8)) {  // cut one box in two, along any axis
      Box& box = boxes[rng.below(boxes.size())];
      const auto axis = rng.pick(std::vector<Range Box::*>{&Box::n, &Box::c, &Box::y, &Box::x});
      if ((box.*axis).size() < 2) continue;
      const Index at = (box.*axis).begin + rng.between(1, static_cast<int>((box.*axis).size()) - 1);
      Box rest = box;
      (box.*axis).end = at;
      (rest.*axis).begin = at;
      boxes.push_back(rest);
    }
    boxes.resize(static_cast<std::size_t>(plan.participants));
    rng.shuffle(boxes);
    plan.owned.push_back(boxes);
  }
  plan.recompute = rng.chance(0.4);
  plan.boundary_first = rng.chance(0.5);
  plan.single_pass = rng.chance(0.5);
  return plan;
}

std::string describe(const Graph& graph) {
  std::string text;
  for (int node = 0; node < graph.size(); ++node) {
    const Layer& l = graph[node];
    text += fmt::format("\n  node {} {} from {} out {}x{}x{} kernel {} stride {} pad {}{}{} {}{}{}", node, to_string(l.kind), l.inputs,
                        l.out.c, l.out.y, l.out.x, l.kernel, l.stride, l.pad, l.batch_normalize ? " bn" : "", l.reverse ? " reverse" : "",
                        l.activation, l.delivered ? " delivered" : "", l.backward ? "" : " frozen");
  }
  return text;
}

std::string describe(const plan::Plan& plan) {
  std::string text = fmt::format("\n  batch {} participants {} forward starts {} backward ends {}{}{}{}", plan.batch, plan.participants,
                                 plan.forward_starts, plan.backward_ends, plan.recompute ? " recompute" : "",
                                 plan.boundary_first ? " boundary first" : "", plan.single_pass ? " single pass" : "");
  for (std::size_t node = 0; node < plan.owned.size(); ++node) {
    text += fmt::format("\n  node {} owned", node);
    for (const Box& box : plan.owned[node]) text += " " + (box.empty() ? std::string("-") : to_string(box));
  }
  return text;
}

}  // namespace tessera::testing
