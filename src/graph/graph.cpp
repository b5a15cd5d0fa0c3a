#include "graph/graph.hpp"

#include <array>
#include <nlohmann/json.hpp>

#include "graph/layers/kind.hpp"

namespace tessera::graph {

using base::ErrorCode;

namespace {

constexpr Index kLargestSide = 1 << 20;      // refuses nonsense from a file or a peer before it is multiplied
constexpr Index kLargestTensor = 1ll << 40;  // elements

template <typename... Args>
tl::unexpected<base::Error> bad(int node, const Layer& layer, fmt::format_string<Args...> format, Args&&... args) {
  return base::error(ErrorCode::kInvalidArgument, "layer {} ({}, node {}): {}", layer.source, to_string(layer.kind), node,
                     fmt::format(format, std::forward<Args>(args)...));
}

bool shape_is_sane(const Shape& s) {
  return s.c > 0 && s.y > 0 && s.x > 0 && s.c <= kLargestSide && s.y <= kLargestSide && s.x <= kLargestSide &&
         s.elements() <= kLargestTensor;
}

// By LayerKind.
constexpr std::array<const Kind*, 7> kKinds = {&kInputKind,    &kConvolutionalKind, &kMaxpoolKind, &kRouteKind,
                                               &kShortcutKind, &kUpsampleKind,      &kReorgKind};

// Calls field(name, member) for all that JSON holds of a layer as it is.
template <typename L, typename Field>
void for_fields(L& l, Field field) {
  field("source", l.source), field("inputs", l.inputs), field("kernel", l.kernel), field("stride", l.stride), field("pad", l.pad);
  field("stride_x", l.stride_x), field("dilation", l.dilation), field("groups", l.groups), field("group", l.group);
  field("batch_normalize", l.batch_normalize), field("activation", l.activation), field("alpha", l.alpha), field("beta", l.beta);
  field("scale", l.scale), field("reverse", l.reverse), field("learning_rate_scale", l.learning_rate_scale);
  field("delivered", l.delivered), field("epsilon_in_root", l.epsilon_in_root), field("adds_gradient", l.adds_gradient);
  field("backward", l.backward);
}

}  // namespace

const Kind& kind(LayerKind kind) { return *kKinds[static_cast<std::size_t>(kind)]; }
const char* to_string(LayerKind kind) { return graph::kind(kind).name; }

int Graph::first_layer() const {
  int node = 0;
  while (node < size() && (*this)[node].kind == LayerKind::kInput) ++node;
  return node;
}

std::vector<std::vector<Use>> uses(const Graph& graph) {
  std::vector<std::vector<Use>> result(graph.layers.size());
  for (int node = 0; node < graph.size(); ++node)
    for (std::size_t input = 0; input < graph[node].inputs.size(); ++input)
      result[static_cast<std::size_t>(graph[node].inputs[input])].push_back({node, static_cast<int>(input)});
  return result;
}

DeltaSources delta_sources(const Graph& graph, const std::vector<Use>& uses_of_node, int node) {
  DeltaSources sources;
  sources.external = graph[node].delivered;
  for (auto use = uses_of_node.rbegin(); use != uses_of_node.rend(); ++use) {
    const Layer& consumer = graph[use->layer];
    if (!consumer.backward) continue;
    const auto replaces = kind(consumer).replaces_delta;
    if (replaces && replaces(consumer) && !consumer.adds_gradient) {
      sources.uses.clear();
      sources.external = false;
      sources.overwrites_external = true;
    }
    sources.uses.push_back(*use);
  }
  return sources;
}

base::Status validate(const Graph& graph) {
  if (graph.first_layer() == 0 || graph.first_layer() == graph.size())
    return base::error(ErrorCode::kInvalidArgument, "a graph needs an input and a layer");
  for (int node = 0; node < graph.size(); ++node) {
    const Layer& layer = graph[node];
    if (!shape_is_sane(layer.out)) return bad(node, layer, "impossible shape {}x{}x{}", layer.out.x, layer.out.y, layer.out.c);
    if (layer.kernel < 1 || layer.stride < 1 || layer.pad < 0 || layer.kernel > kLargestSide || layer.stride > kLargestSide ||
        layer.pad > kLargestSide)
      return bad(node, layer, "impossible size {}, stride {} or padding {}", layer.kernel, layer.stride, layer.pad);
    if (layer.stride_x < 0 || layer.stride_x > kLargestSide || layer.dilation < 1 || layer.dilation > kLargestSide)
      return bad(node, layer, "impossible stride {} along rows or dilation {}", layer.stride_x, layer.dilation);
    if (layer.groups < 1 || layer.groups > kLargestSide || layer.group < 0 || layer.group >= layer.groups)
      return bad(node, layer, "there is no group {} of {}", layer.group, layer.groups);
    if ((layer.kind == LayerKind::kInput) != (node < graph.first_layer())) return bad(node, layer, "inputs must come first");
    const Kind& of = kind(layer);
    const int inputs = static_cast<int>(layer.inputs.size());
    if (inputs < of.least_inputs || inputs > of.most_inputs) return bad(node, layer, "{} inputs", inputs);
    for (int input : layer.inputs)
      if (input < 0 || input >= node) return bad(node, layer, "reads node {}, which does not come before it", input);
    if (const std::string fault = of.fault ? of.fault(graph, layer) : ""; !fault.empty()) return bad(node, layer, "{}", fault);
  }
  return {};
}

nlohmann::json to_json(const Graph& graph) {
  auto layers = nlohmann::json::array();
  for (const Layer& l : graph.layers) {
    auto& j = layers.emplace_back(nlohmann::json{{"kind", to_string(l.kind)}, {"out", {l.out.c, l.out.y, l.out.x}}});
    for_fields(l, [&](const char* name, const auto& value) { j[name] = value; });
  }
  return {{"layers", layers}};
}

base::Result<Graph> graph_from_json(const nlohmann::json& json) {
  Graph graph;
  try {
    for (const auto& j : json.at("layers")) {
      Layer l;
      const std::string kind = j.at("kind");
      const auto found = std::find_if(kKinds.begin(), kKinds.end(), [&](const Kind* k) { return kind == k->name; });
      if (found == kKinds.end()) return base::error(ErrorCode::kProtocol, "unknown layer kind '{}'", kind);
      l.kind = static_cast<LayerKind>(found - kKinds.begin());
      const auto shape = j.at("out").get<std::array<Index, 3>>();
      l.out = {shape[0], shape[1], shape[2]};
      for_fields(l, [&](const char* name, auto& value) { j.at(name).get_to(value); });
      graph.layers.push_back(std::move(l));
    }
  } catch (const nlohmann::json::exception& e) {
    return base::error(ErrorCode::kProtocol, "not a graph: {}", e.what());
  }
  TESSERA_TRY(validate(graph));
  return graph;
}

}  // namespace tessera::graph
