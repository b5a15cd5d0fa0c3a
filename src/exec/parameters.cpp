#include "exec/parameters.hpp"

#include <cstring>

#include "base/check.hpp"

namespace tessera::exec {

namespace {

struct Sizes {
  std::size_t weights = 0, channels = 0;
  bool batch_normalize = false;
  std::size_t total() const { return 2 * weights + (batch_normalize ? 6 : 2) * channels; }
};

Sizes sizes(const graph::Graph& graph, int node) {
  const auto& layer = graph[node];
  if (!layer.trainable()) return {};
  return {static_cast<std::size_t>(graph.weights(node)), static_cast<std::size_t>(layer.out.c), layer.batch_normalize};
}

}  // namespace

std::vector<std::span<float>> arrays(const LayerParameters& l) {
  return {l.weights, l.biases, l.scales, l.rolling_mean, l.rolling_variance, l.weight_updates, l.bias_updates, l.scale_updates};
}

ParameterStorage::ParameterStorage(const graph::Graph& graph) {
  std::size_t total = 0;
  for (int node = 0; node < graph.size(); ++node) total += sizes(graph, node).total();
  memory_.resize(total);
  float* next = memory_.data();
  const auto take = [&](std::size_t count) {
    const std::span<float> span(next, count);
    next += count;
    return span;
  };
  for (int node = 0; node < graph.size(); ++node) {
    const Sizes s = sizes(graph, node);
    const std::size_t norm = s.batch_normalize ? s.channels : 0;
    LayerParameters& l = parameters_.layers.emplace_back();
    l.weights = take(s.weights);
    l.biases = take(s.channels);
    l.scales = take(norm);
    l.rolling_mean = take(norm);
    l.rolling_variance = take(norm);
    l.weight_updates = take(s.weights);
    l.bias_updates = take(s.channels);
    l.scale_updates = take(norm);
  }
}

std::size_t parameter_bytes(const Parameters& parameters) {
  std::size_t bytes = 0;
  for (const auto& layer : parameters.layers)
    for (const auto& array : arrays(layer)) bytes += array.size_bytes();
  return bytes;
}

void write_parameters(const Parameters& parameters, std::span<std::byte> bytes) {
  TESSERA_CHECK(bytes.size() == parameter_bytes(parameters), "{} bytes for {}", bytes.size(), parameter_bytes(parameters));
  std::size_t at = 0;
  for (const auto& layer : parameters.layers)
    for (const auto& array : arrays(layer)) {
      if (!array.empty()) std::memcpy(bytes.data() + at, array.data(), array.size_bytes());
      at += array.size_bytes();
    }
}

void read_parameters(std::span<const std::byte> bytes, const Parameters& parameters) {
  TESSERA_CHECK(bytes.size() == parameter_bytes(parameters), "{} bytes for {}", bytes.size(), parameter_bytes(parameters));
  std::size_t at = 0;
  for (const auto& layer : parameters.layers)
    for (const auto& array : arrays(layer)) {
      if (!array.empty()) std::memcpy(array.data(), bytes.data() + at, array.size_bytes());
      at += array.size_bytes();
    }
}

}  // namespace tessera::exec
