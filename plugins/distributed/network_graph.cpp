#include "plugins/distributed/network_graph.hpp"

#include <algorithm>
#include <map>

#include "darknet.h"
#include "darknet/upstream/dialect.hpp"

extern "C" {
char* get_layer_string(LAYER_TYPE type);
char* get_activation_string(ACTIVATION activation);
}

namespace tessera::distributed {

using base::ErrorCode;
using graph::Graph;
using graph::LayerKind;

namespace {

// Why a layer cannot be wrapped, whatever is around it; empty when it can.
std::string obstacle(const layer& l) {
  if (const darknet::OwnLayer* own = darknet::own_layer(l)) {
    graph::Layer node;
    if (std::string reason = own->fill(node); !reason.empty()) return reason;
    if (graph::derivative_needs_input(node.activation) && !l.batch_normalize)
      return fmt::format("activation={} without batch_normalize is computed as a whole", node.activation);
  }
  switch (l.type) {
    case CONVOLUTIONAL:
      if (l.binary || l.xnor) return "binary and xnor weights are not supported";
      return {};
    case MAXPOOL:
      if (l.size > 15) return fmt::format("size={} is larger than 15", l.size);
      return {};
    case ROUTE:
      if (!(l.out_w && l.out_h && l.out_c)) return "it joins maps of different size";
      return {};
    case SHORTCUT:
      return {};
    case UPSAMPLE:
      return l.reverse ? "a negative stride (downsampling) is not supported" : std::string();
    case REORG:
      if (l.flatten || l.extra) return "flatten and extra are not supported";
      return {};
    default:
      return fmt::format("a layer of this kind ({}) cannot be cut into tiles", get_layer_string(l.type));
  }
}

// Whether upstream computes something else than the layer's name says (network_notes).
bool differs_from_upstream(const layer& l) {
  return !darknet::own_layer(l) && l.type == CONVOLUTIONAL && l.size == 1 && (l.stride != 1 || l.pad != 0);
}

std::vector<int> layer_inputs(const layer& l, int index) {
  if (const darknet::OwnLayer* own = darknet::own_layer(l)) return own->inputs(index);
  if (l.type == ROUTE) return {l.input_layers, l.input_layers + l.n};
  if (l.type == SHORTCUT) return {index - 1, l.index};
  return {index - 1};
}

LayerKind kind_of(const layer& l) {
  switch (l.type) {
    case CONVOLUTIONAL:
      return LayerKind::kConvolutional;
    case MAXPOOL:
      return LayerKind::kMaxpool;
    case ROUTE:
      return LayerKind::kRoute;
    case SHORTCUT:
      return LayerKind::kShortcut;
    case UPSAMPLE:
      return LayerKind::kUpsample;
    default:
      return LayerKind::kReorg;
  }
}

graph::Shape output_shape(const network& net, int index) {
  if (index < 0) return {net.c, net.h, net.w};
  const layer& l = net.layers[index];
  return {l.out_c, l.out_h, l.out_w};
}

graph::Layer graph_layer(const layer& l, int index) {
  graph::Layer g;
  g.kind = kind_of(l);
  g.source = index;
  g.out = {l.out_c, l.out_h, l.out_w};
  if (l.type == CONVOLUTIONAL || l.type == MAXPOOL) {
    g.kernel = l.size;
    g.stride = l.stride;
    g.pad = l.pad;
  }
  if (l.type == UPSAMPLE || l.type == REORG) g.stride = l.stride;
  if (l.type == CONVOLUTIONAL || l.type == SHORTCUT) g.activation = get_activation_string(l.activation);
  if (l.type == CONVOLUTIONAL) {
    g.batch_normalize = l.batch_normalize;
    g.groups = l.groups;
    g.learning_rate_scale = l.learning_rate_scale;
  }
  g.alpha = l.alpha;
  g.beta = l.beta;
  g.scale = l.scale;
  g.reverse = l.type == REORG && l.reverse;
  g.adds_gradient = darknet::adds_gradient(l);
  if (const darknet::OwnLayer* own = darknet::own_layer(l)) own->fill(g);
  return g;
}

// The last layer that back-propagation does not pass (Darknet's stopbackward), or -1.
int last_frozen_layer(const network& net) {
  for (int i = net.n - 1; i >= 0; --i)
    if (net.layers[i].stopbackward) return i;
  return -1;
}

bool read_after(const network& net, int index, int end) {
  for (int i = end; i < net.n; ++i) {
    const layer& l = net.layers[i];
    if (darknet::own_layer(l) || l.type == ROUTE || l.type == SHORTCUT) {
      const auto inputs = layer_inputs(l, i);
      if (std::find(inputs.begin(), inputs.end(), index) != inputs.end()) return true;
    } else if (i - 1 == index) {
      return true;
    }
  }
  return index == net.n - 1;
}

}  // namespace

base::Result<LayerRange> wrappable_range(const network& net, int begin) {
  if (begin < 0 || begin >= net.n) return base::error(ErrorCode::kInvalidArgument, "there is no layer {} to wrap", begin);
  if (const auto reason = obstacle(net.layers[begin]); !reason.empty())
    return base::error(ErrorCode::kInvalidArgument, "layer {} cannot be wrapped: {}; put [distributed] before another layer", begin,
                       reason);
  int end = begin;
  while (end < net.n && obstacle(net.layers[end]).empty()) ++end;
  return LayerRange{begin, end};
}

std::string reason_against(const network& net, int index) {
  const layer& l = net.layers[index];
  if (differs_from_upstream(l)) return "a 1x1 convolution with stride or padding is computed in upstream's own way";
  return obstacle(l);
}

std::vector<LayerRange> equivalent_ranges(const network& net, LayerRange taken) {
  std::vector<LayerRange> ranges;
  const auto usable = [&](int i) { return (i < taken.begin || i >= taken.end) && reason_against(net, i).empty(); };
  for (int begin = 0; begin < net.n; ++begin) {
    int end = begin;
    bool convolves = false;
    for (; end < net.n && usable(end); ++end) convolves = convolves || net.layers[end].type == CONVOLUTIONAL;
    const LayerRange range{begin, end};
    if (convolves && network_graph(net, range)) ranges.push_back(range);
    begin = std::max(begin, end);
  }
  return ranges;
}

base::Result<Graph> network_graph(const network& net, LayerRange range) {
  TESSERA_ASSIGN(const LayerRange possible, wrappable_range(net, range.begin));
  if (range.end > possible.end) {
    const std::string reason = possible.end < net.n ? obstacle(net.layers[possible.end]) : "the network ends before it";
    return base::error(ErrorCode::kInvalidArgument, "layer {} cannot be wrapped: {}; layers {} to {} can be (layers = {})", possible.end,
                       reason, range.begin, possible.end - 1, possible.end - possible.begin);
  }
  const int frozen = last_frozen_layer(net);
  Graph graph;
  std::map<int, int> node_of;  // Darknet layer → node
  for (int i = range.begin; i < range.end; ++i)
    for (int source : layer_inputs(net.layers[i], i)) {
      if (source >= range.begin || node_of.contains(source)) continue;
      graph::Layer input;
      input.source = source;
      input.out = output_shape(net, source);
      // Back-propagation goes down to layer frozen + 1; a layer before that has a delta, but nobody reads it. Layers that
      // only prepare images ([crop]) have none.
      input.backward = source > frozen && source >= 0 && net.layers[source].delta != nullptr;
      node_of[source] = graph.size();
      graph.layers.push_back(input);
    }
  for (int i = range.begin; i < range.end; ++i) {
    graph::Layer g = graph_layer(net.layers[i], i);
    g.epsilon_in_root = g.batch_normalize && darknet::settings_of(net).epsilon_in_root;
    for (int source : layer_inputs(net.layers[i], i)) g.inputs.push_back(node_of.at(source));
    g.backward = i > frozen;
    g.delivered = read_after(net, i, range.end);
    node_of[i] = graph.size();
    graph.layers.push_back(std::move(g));
  }
  TESSERA_TRY(graph::validate(graph));
  return graph;
}

std::vector<std::string> network_notes(const network& net, LayerRange range) {
  std::vector<std::string> notes;
  for (int i = range.begin; i < range.end; ++i) {
    const layer& l = net.layers[i];
    if (differs_from_upstream(l))
      notes.push_back(fmt::format(
          "layer {}: a 1x1 convolution with stride {} and padding {} is computed as one; upstream Darknet reads its input as if "
          "stride were 1 here, so weights trained there do not fit",
          i, l.stride, l.pad));
  }
  return notes;
}

exec::Parameters network_parameters(const network& net, const Graph& graph) {
  exec::Parameters parameters;
  for (int node = 0; node < graph.size(); ++node) {
    exec::LayerParameters& p = parameters.layers.emplace_back();
    if (!graph[node].trainable()) continue;
    const layer& l = net.layers[graph[node].source];
    const auto channels = static_cast<std::size_t>(l.n), weights = static_cast<std::size_t>(l.nweights);
    p.filters = p.home = {0, l.n};
    p.weights = {l.weights, weights};
    p.biases = {l.biases, channels};
    const auto span = [](float* values, std::size_t count) { return values ? std::span(values, count) : std::span<float>(); };
    p.weight_updates = span(l.weight_updates, weights);
    p.bias_updates = span(l.bias_updates, channels);
    if (!graph[node].batch_normalize) continue;
    p.scales = {l.scales, channels};
    p.rolling_mean = {l.rolling_mean, channels};
    p.rolling_variance = {l.rolling_variance, channels};
    p.scale_updates = span(l.scale_updates, channels);
  }
  return parameters;
}

}  // namespace tessera::distributed
