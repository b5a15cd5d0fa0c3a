#include "tests/support/random_graph.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>

#include "program/program.hpp"
#include "program/regions.hpp"

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

const std::vector<std::string> kActivations = {"linear", "leaky", "relu", "logistic", "tanh", "relu6"};
const std::vector<std::string> kNormalizedActivations = {"mish", "swish", "hard_mish"};  // their derivative needs their input

int last(const Graph& graph) { return graph.size() - 1; }
const Shape& last_shape(const Graph& graph) { return graph[last(graph)].out; }

Layer convolutional(Rng& rng, const Graph& graph) {
  const Shape& in = last_shape(graph);
  Layer layer;
  layer.kind = LayerKind::kConvolutional;
  layer.kernel = rng.between(1, 7);
  layer.stride = rng.between(1, 3);
  layer.pad = rng.chance(0.3) ? 0 : rng.chance(0.7) ? layer.kernel / 2 : rng.between(0, layer.kernel + 1);
  if (rng.chance(0.15)) layer.stride_x = rng.between(1, 3);
  if (layer.kernel > 1 && rng.chance(0.15)) layer.dilation = rng.between(2, 3), layer.pad *= rng.between(1, layer.dilation);
  const Index reach = layer.rows().reach(), total_pad = 2 * Index{layer.pad};
  if (in.y + total_pad < reach || in.x + total_pad < reach) layer.pad = static_cast<int>(reach);
  layer.inputs = {last(graph)};
  std::vector<int> divisors;
  for (int groups = 2; groups <= in.c; ++groups)
    if (in.c % groups == 0) divisors.push_back(groups);
  if (!divisors.empty() && rng.chance(0.3)) layer.groups = rng.pick(divisors);
  layer.out = {layer.groups > 1 ? layer.groups * rng.between(1, 2) : rng.between(1, 4), layer.rows().outputs(in.y, 2 * Index{layer.pad}),
               layer.columns().outputs(in.x, 2 * Index{layer.pad})};
  layer.batch_normalize = rng.chance(0.6);
  layer.activation = layer.batch_normalize && rng.chance(0.3) ? rng.pick(kNormalizedActivations) : rng.pick(kActivations);
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
  if (rng.chance(0.2)) layer.stride_x = rng.between(1, layer.kernel);
  layer.out = {in.c, layer.rows().outputs(in.y, layer.pad), layer.columns().outputs(in.x, layer.pad)};
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
  for (int groups = 2; groups <= 3; ++groups) {
    const bool divides = std::all_of(layer.inputs.begin(), layer.inputs.end(), [&](int node) { return graph[node].out.c % groups == 0; });
    if (!divides || layer.groups > 1 || !rng.chance(0.4)) continue;
    layer.groups = groups, layer.group = rng.between(0, groups - 1);
    layer.out.c /= groups;
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
  while (layer.alpha == 1 && layer.beta == 1 && layer.inputs.size() < 4 && rng.chance(0.2))
    layer.inputs.push_back(static_cast<int>(rng.below(static_cast<std::size_t>(graph.size()))));
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

plan::Layout one_cut(const Graph& graph, geometry::GridShares cut, std::vector<int> participants, int participant_count) {
  plan::Layout layout;
  layout.segments = {{graph.size(), std::move(cut), std::move(participants)}};
  layout.participant_count = participant_count;
  return layout;
}

plan::Layout random_layout(Rng& rng, const Graph& graph, Index batch) {
  struct Grid {
    int n, c, y, x;
  };
  const std::vector<Grid> grids{{1, 1, 1, 1}, {1, 1, 2, 2}, {1, 1, 3, 2}, {1, 1, 1, 5}, {1, 1, 4, 4}, {1, 1, 1, 2}, {1, 1, 2, 1},
                                {2, 1, 1, 1}, {2, 1, 2, 1}, {3, 1, 1, 2}, {2, 1, 2, 2}, {1, 2, 1, 1}, {1, 5, 1, 1}, {2, 3, 1, 1}};
  const bool equal = rng.chance(0.5);
  plan::Layout layout;
  std::size_t cells = 0;
  for (int end = graph.first_layer(); end < graph.size();) {
    end = rng.chance(0.6) ? graph.size() : rng.between(end + 1, graph.size());
    const auto [n, c, y, x] = rng.pick(grids);
    const geometry::GridShares cut{random_shares(rng, static_cast<int>(std::min<Index>(n, batch)), equal), random_shares(rng, c, equal),
                                   random_shares(rng, y, equal), random_shares(rng, x, equal)};
    cells = std::max(cells, cut.cells());
    layout.segments.push_back({end, cut, {}});
  }
  const int idle_host = rng.chance(0.4) ? 1 : 0;
  layout.participant_count = static_cast<int>(cells) + idle_host;
  std::vector<int> participants(cells);
  std::iota(participants.begin(), participants.end(), idle_host);
  for (plan::Segment& segment : layout.segments) {
    rng.shuffle(participants);
    segment.participants.assign(participants.begin(), participants.begin() + static_cast<std::ptrdiff_t>(segment.cut.cells()));
  }
  layout.forward_starts = random_marks(rng, graph);
  layout.backward_ends = random_marks(rng, graph);
  layout.recompute = rng.chance(0.4);
  layout.boundary_first = rng.chance(0.5);
  layout.single_pass = rng.chance(0.5);
  layout.merge_at_home = rng.chance(0.5);
  return layout;
}

namespace {

using Axis = Range Box::*;

// `whole` in up to `participants` boxes, cut along any of `axes`, dealt out; the others' are empty.
std::vector<Box> random_boxes(Rng& rng, const Box& whole, const std::vector<Axis>& axes, int participants) {
  std::vector<Box> boxes = {whole};
  while (static_cast<int>(boxes.size()) < participants && rng.chance(0.8)) {  // cut one box in two
    Box& box = boxes[rng.below(boxes.size())];
    const Axis axis = rng.pick(axes);
    if ((box.*axis).size() < 2) continue;
    const Index at = (box.*axis).begin + rng.between(1, static_cast<int>((box.*axis).size()) - 1);
    Box rest = box;
    (box.*axis).end = at;
    (rest.*axis).begin = at;
    boxes.push_back(rest);
  }
  boxes.resize(static_cast<std::size_t>(participants));
  rng.shuffle(boxes);
  return boxes;
}

void mark(std::vector<int>& marks, int node) {
  marks.push_back(node);
  std::sort(marks.begin(), marks.end());
  marks.erase(std::unique(marks.begin(), marks.end()), marks.end());
}

void make_inputs(Rng& rng, const Graph& graph, plan::Plan& plan, bool anywhere) {
  const auto deal = [&](bool in_parts) {
    plan.made.assign(graph.layers.size(), {});
    for (int node = 0; node < graph.first_layer(); ++node) {
      const Box whole = Box::whole(plan.batch, graph[node].out);
      auto& made = plan.made[static_cast<std::size_t>(node)];
      if (in_parts) {
        made = random_boxes(rng, whole, {&Box::n, &Box::y, &Box::x}, plan.participants);
      } else {
        made.resize(static_cast<std::size_t>(plan.participants));
        made[anywhere ? rng.below(made.size()) : static_cast<std::size_t>(plan.host)] = whole;
      }
    }
  };
  for (int attempt = 0; attempt < 4 && anywhere; ++attempt)
    if (deal(true), program::check_makers(graph, plan, program::Mode::kTrain)) return;
  deal(false);
}

}  // namespace

plan::Plan random_free_plan(Rng& rng, const Graph& graph, Index batch, bool anywhere) {
  plan::Plan plan;
  plan.batch = batch;
  plan.participants = rng.between(2, 5);
  plan.host = anywhere ? rng.between(0, plan.participants - 1) : 0;
  plan.forward_starts = random_marks(rng, graph);
  plan.backward_ends = random_marks(rng, graph);
  mark(plan.forward_starts, graph.first_layer()), mark(plan.backward_ends, graph.size() - 1);
  for (int node = 0; node < graph.size(); ++node) {
    const auto& layer = graph[node];
    std::vector<Axis> axes{&Box::n, &Box::c, &Box::y, &Box::x};
    if (layer.trainable()) axes = rng.chance(0.3) ? std::vector<Axis>{&Box::n, &Box::c} : std::vector<Axis>{&Box::n, &Box::y, &Box::x};
    plan.owned.push_back(random_boxes(rng, Box::whole(batch, layer.out), axes, plan.participants));
    std::vector<Box> homes(static_cast<std::size_t>(plan.participants));
    if (layer.trainable()) {
      const Index kernel = layer.kernel;
      homes =
          random_boxes(rng, {{0, layer.out.c}, {0, graph.input_channels(node)}, {0, kernel}, {0, kernel}}, {&Box::n}, plan.participants);
    }
    plan.weights.push_back(std::move(homes));
    plan.statistics.push_back(layer.batch_normalize && rng.chance(0.5) ? rng.between(0, plan.participants - 1) : plan::kMergedByAll);
  }
  for (int node = graph.first_layer(); node < graph.size(); ++node) {
    if (!plan::cut_along_channels(plan, graph, node)) continue;
    mark(plan.forward_starts, node), mark(plan.backward_ends, node);
    if (node + 1 < graph.size()) mark(plan.forward_starts, node + 1);
    if (node > graph.first_layer()) mark(plan.backward_ends, node - 1);
  }
  plan.recompute = rng.chance(0.4);
  plan.boundary_first = rng.chance(0.5);
  plan.single_pass = rng.chance(0.5);
  make_inputs(rng, graph, plan, anywhere);
  return plan;
}

std::string describe(const Graph& graph) {
  std::string text;
  for (int node = 0; node < graph.size(); ++node) {
    const Layer& l = graph[node];
    text += fmt::format("\n  node {} {} from {} out {}x{}x{} kernel {} stride {}/{} pad {} dilation {} group {}/{}{}{} {}{}{}", node,
                        to_string(l.kind), l.inputs, l.out.c, l.out.y, l.out.x, l.kernel, l.stride, l.stride_x, l.pad, l.dilation, l.group,
                        l.groups, l.batch_normalize ? " bn" : "", l.reverse ? " reverse" : "", l.activation,
                        l.delivered ? " delivered" : "", l.backward ? "" : " frozen");
  }
  return text;
}

std::string describe(const plan::Plan& plan) {
  std::string text = fmt::format("\n  batch {} participants {} host {} forward starts {} backward ends {}{}{}{}", plan.batch,
                                 plan.participants, plan.host, plan.forward_starts, plan.backward_ends, plan.recompute ? " recompute" : "",
                                 plan.boundary_first ? " boundary first" : "", plan.single_pass ? " single pass" : "");
  const auto row = [&](const char* name, const std::vector<Box>& boxes) {
    text += fmt::format(" {}", name);
    for (const Box& box : boxes) text += " " + (box.empty() ? std::string("-") : to_string(box));
  };
  for (std::size_t node = 0; node < plan.owned.size(); ++node) {
    text += fmt::format("\n  node {} statistics {}", node, plan.statistics[node]);
    row("owned", plan.owned[node]), row("made", plan.made[node]), row("weights", plan.weights[node]);
  }
  return text;
}

}  // namespace tessera::testing
