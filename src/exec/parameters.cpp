#include "exec/parameters.hpp"

#include "base/check.hpp"

namespace tessera::exec {

using geometry::Box;
using geometry::Index;
using geometry::Range;
using program::Slot;

namespace {

std::vector<Range> all_filters(const graph::Graph& graph) {
  std::vector<Range> filters;
  for (const auto& layer : graph.layers) filters.push_back(layer.trainable() ? Range{0, layer.out.c} : Range{});
  return filters;
}

std::size_t filter_elements(const graph::Graph& graph, int node) {
  return graph[node].trainable() ? static_cast<std::size_t>(graph.weights(node) / graph[node].out.c) : 0;
}

}  // namespace

geometry::FloatView parameter_view(const graph::Graph& graph, const Parameters& parameters, int node, Slot slot) {
  const LayerParameters& l = parameters.layers[static_cast<std::size_t>(node)];
  const Index kernel = graph[node].kernel;
  const auto rows = [&](std::span<float> array, Range filters) -> geometry::FloatView {
    return {array.data(), {filters, {0, graph.input_channels(node)}, {0, kernel}, {0, kernel}}};
  };
  const auto vector = [](std::span<float> array, Range filters) -> geometry::FloatView {
    return {array.data(), array.empty() ? Box{} : Box{filters, {0, 1}, {0, 1}, {0, 1}}};
  };
  const Range all{0, graph[node].out.c};
  switch (slot) {
    case Slot::kWeights:
      return rows(l.weights, l.filters);
    case Slot::kMomentum:
      return rows(l.weight_updates, l.home);
    case Slot::kBiases:
      return vector(l.biases, all);
    case Slot::kScales:
      return vector(l.scales, all);
    case Slot::kRollingMean:
      return vector(l.rolling_mean, all);
    case Slot::kRollingVariance:
      return vector(l.rolling_variance, all);
    case Slot::kBiasMomentum:
      return vector(l.bias_updates, l.home);
    case Slot::kScaleMomentum:
      return vector(l.scale_updates, l.home);
    default:
      TESSERA_CHECK(false, "{} is no parameter", to_string(slot));
      return {};
  }
}

void for_each_array(const LayerParameters& l, const std::function<void(std::span<float>)>& visit) {
  for (const auto& array :
       {l.weights, l.biases, l.scales, l.rolling_mean, l.rolling_variance, l.weight_updates, l.bias_updates, l.scale_updates})
    visit(array);
}

ParameterStorage::ParameterStorage(const graph::Graph& graph) : ParameterStorage(graph, all_filters(graph), all_filters(graph)) {}

ParameterStorage::ParameterStorage(const graph::Graph& graph, const std::vector<Range>& filters, const std::vector<Range>& home) {
  const auto sizes = [&](int node, const auto& use) {
    const auto row = filter_elements(graph, node);
    const auto channels = row ? static_cast<std::size_t>(graph[node].out.c) : 0, norm = graph[node].batch_normalize ? channels : 0;
    const Range stored = filters[static_cast<std::size_t>(node)], own = home[static_cast<std::size_t>(node)];
    const auto owned = static_cast<std::size_t>(own.size());
    use(stored, own, row * static_cast<std::size_t>(stored.size()), channels, norm, row * owned, owned, norm ? owned : 0);
  };
  std::size_t total = 0;
  for (int node = 0; node < graph.size(); ++node)
    sizes(node, [&](Range, Range, std::size_t weights, std::size_t channels, std::size_t norm, std::size_t momentum, std::size_t bias,
                    std::size_t scale) { total += weights + channels + 3 * norm + momentum + bias + scale; });
  memory_.resize(total);
  float* next = memory_.data();
  const auto take = [&](std::size_t count) {
    const std::span<float> span(next, count);
    next += count;
    return span;
  };
  for (int node = 0; node < graph.size(); ++node)
    sizes(node, [&](Range stored, Range own, std::size_t weights, std::size_t channels, std::size_t norm, std::size_t momentum,
                    std::size_t bias, std::size_t scale) {
      LayerParameters& l = parameters_.layers.emplace_back();
      l.filters = stored, l.home = own;
      l.weights = take(weights), l.biases = take(channels), l.scales = take(norm), l.rolling_mean = take(norm),
      l.rolling_variance = take(norm);
      l.weight_updates = take(momentum), l.bias_updates = take(bias), l.scale_updates = take(scale);
    });
}

bool ParameterStorage::covers(const std::vector<Range>& filters, const std::vector<Range>& home) const {
  if (filters.size() != parameters_.layers.size()) return false;
  for (std::size_t node = 0; node < filters.size(); ++node) {
    const LayerParameters& l = parameters_.layers[node];
    if (!l.filters.contains(filters[node]) || (!home[node].empty() && !(l.home == home[node]))) return false;
  }
  return true;
}

}  // namespace tessera::exec
