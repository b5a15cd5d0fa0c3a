#include "graph/graph.hpp"

#include <array>
#include <nlohmann/json.hpp>

namespace tessera::graph {

using base::ErrorCode;

namespace {

constexpr std::array<const char*, 7> kKindNames = {"input", "convolutional", "maxpool", "route", "shortcut", "upsample", "reorg"};
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

base::Status validate_window(const Graph& graph, int node) {
  const Layer& layer = graph[node];
  const Shape& in = graph[layer.inputs[0]].out;
  // A pooling window that sees nothing of its input has no maximum. (A convolution's is zero.)
  if (layer.kind == LayerKind::kMaxpool) {
    if (layer.out.c != in.c) return bad(node, layer, "{} channels from {}", layer.out.c, in.c);
    for (auto [size, out] : {std::pair{in.y, layer.out.y}, std::pair{in.x, layer.out.x}})
      if ((out - 1) * layer.stride - layer.pad / 2 >= size || layer.kernel <= layer.pad / 2)
        return bad(node, layer, "a window of size {} stride {} padding {} lies outside its input", layer.kernel, layer.stride, layer.pad);
  }
  const Index total_pad = layer.kind == LayerKind::kMaxpool ? layer.pad : 2 * Index{layer.pad};
  for (auto [size, out] : {std::pair{in.y, layer.out.y}, std::pair{in.x, layer.out.x}})
    if (size + total_pad < layer.kernel || (size + total_pad - layer.kernel) / layer.stride + 1 != out)
      return bad(node, layer, "its output of {}x{} does not follow from its input of {}x{}", layer.out.x, layer.out.y, in.x, in.y);
  return {};
}

base::Status validate_route(const Graph& graph, int node) {
  const Layer& layer = graph[node];
  Index channels = 0;
  for (int input : layer.inputs) {
    const Shape& in = graph[input].out;
    if (in.y != layer.out.y || in.x != layer.out.x)
      return bad(node, layer, "joins maps of different size, {}x{} and {}x{}", in.x, in.y, layer.out.x, layer.out.y);
    channels += in.c;
  }
  if (channels != layer.out.c) return bad(node, layer, "{} channels, its inputs have {}", layer.out.c, channels);
  return {};
}

base::Status validate_shortcut(const Graph& graph, int node) {
  const Layer& layer = graph[node];
  const Shape &prev = graph[layer.inputs[0]].out, &from = graph[layer.inputs[1]].out;
  if (!(prev == layer.out)) return bad(node, layer, "its output differs in shape from the layer before it");
  const Index stride = from.x / prev.x, sample = prev.x / from.x;
  if (stride != from.y / prev.y || sample != prev.y / from.y)
    return bad(node, layer, "maps of {}x{} and {}x{} do not fit together", from.x, from.y, prev.x, prev.y);
  return {};
}

base::Status validate_factor(const Graph& graph, int node) {
  const Layer& layer = graph[node];
  const Shape& in = graph[layer.inputs[0]].out;
  const Index s = layer.stride;
  if (layer.kind == LayerKind::kUpsample) {
    if (layer.out != Shape{in.c, in.y * s, in.x * s}) return bad(node, layer, "its shape does not follow from its input");
  } else if (layer.reverse) {
    if (in.c % (s * s) != 0) return bad(node, layer, "{} channels cannot be spread over {}x{} cells", in.c, s, s);
    if (layer.out != Shape{in.c / (s * s), in.y * s, in.x * s}) return bad(node, layer, "its shape does not follow from its input");
  } else {
    if (in.x % s != 0 || in.y % s != 0 || in.c % (s * s) != 0)
      return bad(node, layer, "an input of {}x{}x{} is not divisible by its stride {}", in.x, in.y, in.c, s);
    if (layer.out != Shape{in.c * s * s, in.y / s, in.x / s}) return bad(node, layer, "its shape does not follow from its input");
  }
  return {};
}

}  // namespace

const char* to_string(LayerKind kind) { return kKindNames[static_cast<std::size_t>(kind)]; }

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
    const bool overwrites = !consumer.adds_gradient &&
                            ((consumer.kind == LayerKind::kConvolutional && consumer.kernel == 1) || consumer.kind == LayerKind::kReorg);
    if (overwrites) {
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
    if ((layer.kind == LayerKind::kInput) != (node < graph.first_layer())) return bad(node, layer, "inputs must come first");
    const std::size_t inputs = layer.inputs.size();
    const std::size_t wanted = layer.kind == LayerKind::kInput ? 0 : layer.kind == LayerKind::kShortcut ? 2 : 1;
    if (layer.kind == LayerKind::kRoute ? inputs < 1 : inputs != wanted) return bad(node, layer, "{} inputs", inputs);
    for (int input : layer.inputs)
      if (input < 0 || input >= node) return bad(node, layer, "reads node {}, which does not come before it", input);
    base::Status status;
    switch (layer.kind) {
      case LayerKind::kInput:
        break;
      case LayerKind::kConvolutional:
        status = validate_window(graph, node);
        break;
      case LayerKind::kMaxpool:
        if (layer.kernel > 15) return bad(node, layer, "size {} is larger than 15", layer.kernel);
        status = validate_window(graph, node);
        break;
      case LayerKind::kRoute:
        status = validate_route(graph, node);
        break;
      case LayerKind::kShortcut:
        status = validate_shortcut(graph, node);
        break;
      case LayerKind::kUpsample:
      case LayerKind::kReorg:
        status = validate_factor(graph, node);
        break;
    }
    TESSERA_TRY(status);
  }
  return {};
}

nlohmann::json to_json(const Graph& graph) {
  auto layers = nlohmann::json::array();
  for (const Layer& l : graph.layers)
    layers.push_back({{"kind", to_string(l.kind)},
                      {"source", l.source},
                      {"inputs", l.inputs},
                      {"out", {l.out.c, l.out.y, l.out.x}},
                      {"kernel", l.kernel},
                      {"stride", l.stride},
                      {"pad", l.pad},
                      {"batch_normalize", l.batch_normalize},
                      {"activation", l.activation},
                      {"alpha", l.alpha},
                      {"beta", l.beta},
                      {"scale", l.scale},
                      {"reverse", l.reverse},
                      {"learning_rate_scale", l.learning_rate_scale},
                      {"delivered", l.delivered},
                      {"epsilon_in_root", l.epsilon_in_root},
                      {"adds_gradient", l.adds_gradient},
                      {"backward", l.backward}});
  return {{"layers", layers}};
}

base::Result<Graph> graph_from_json(const nlohmann::json& json) {
  Graph graph;
  try {
    for (const auto& j : json.at("layers")) {
      Layer l;
      const std::string kind = j.at("kind");
      const auto name = std::find(kKindNames.begin(), kKindNames.end(), kind);
      if (name == kKindNames.end()) return base::error(ErrorCode::kProtocol, "unknown layer kind '{}'", kind);
      l.kind = static_cast<LayerKind>(name - kKindNames.begin());
      j.at("source").get_to(l.source);
      j.at("inputs").get_to(l.inputs);
      const auto shape = j.at("out").get<std::array<Index, 3>>();
      l.out = {shape[0], shape[1], shape[2]};
      j.at("kernel").get_to(l.kernel);
      j.at("stride").get_to(l.stride);
      j.at("pad").get_to(l.pad);
      j.at("batch_normalize").get_to(l.batch_normalize);
      j.at("activation").get_to(l.activation);
      j.at("alpha").get_to(l.alpha);
      j.at("beta").get_to(l.beta);
      j.at("scale").get_to(l.scale);
      j.at("reverse").get_to(l.reverse);
      j.at("learning_rate_scale").get_to(l.learning_rate_scale);
      j.at("delivered").get_to(l.delivered);
      j.at("epsilon_in_root").get_to(l.epsilon_in_root);
      j.at("adds_gradient").get_to(l.adds_gradient);
      j.at("backward").get_to(l.backward);
      graph.layers.push_back(std::move(l));
    }
  } catch (const nlohmann::json::exception& e) {
    return base::error(ErrorCode::kProtocol, "not a graph: {}", e.what());
  }
  TESSERA_TRY(validate(graph));
  return graph;
}

}  // namespace tessera::graph
