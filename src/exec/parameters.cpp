#include "exec/parameters.hpp"

#include <algorithm>
#include <cstring>

#include "base/check.hpp"
#include "wire/hash.hpp"

namespace tessera::exec {

namespace {

struct Sizes {
  std::size_t weights = 0, channels = 0;
  bool batch_normalize = false;
};

Sizes sizes(const graph::Graph& graph, int node) {
  const auto& layer = graph[node];
  if (!layer.trainable()) return {};
  return {static_cast<std::size_t>(graph.weights(node)), static_cast<std::size_t>(layer.out.c), layer.batch_normalize};
}

}  // namespace

std::vector<std::span<float>> replicated_arrays(const LayerParameters& l) {
  const bool normalized = !l.scales.empty();
  return {l.weights,      l.biases, l.scales, l.rolling_mean, l.rolling_variance, normalized ? l.bias_updates : std::span<float>(),
          l.scale_updates};
}

ParameterStorage::ParameterStorage(const graph::Graph& graph, Holds holds) {
  const bool everything = holds == Holds::kEverything;
  std::size_t total = 0;
  for (int node = 0; node < graph.size(); ++node) {
    const Sizes s = sizes(graph, node);
    total += (everything ? 2 : 1) * s.weights + (s.batch_normalize ? 6 : everything ? 2 : 1) * s.channels;
  }
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
    l.weight_updates = take(everything ? s.weights : 0);
    l.bias_updates = take(everything || s.batch_normalize ? s.channels : 0);
    l.scale_updates = take(norm);
  }
}

std::uint64_t parameters_hash(const Parameters& parameters) {
  wire::ContentHasher hasher;
  for (const auto& layer : parameters.layers)
    for (const auto& array : replicated_arrays(layer)) hasher.add(std::as_bytes(array));
  return hasher.value();
}

std::size_t parameter_bytes(const Parameters& parameters) {
  std::size_t bytes = 0;
  for (const auto& layer : parameters.layers)
    for (const auto& array : replicated_arrays(layer)) bytes += array.size_bytes();
  return bytes;
}

namespace {

// Calls copy(array bytes, piece offset, count) for every part of an array that lies in [offset, offset + size).
template <typename Copy>
void for_each_part(const Parameters& parameters, std::size_t offset, std::size_t size, Copy copy) {
  TESSERA_CHECK(offset + size <= parameter_bytes(parameters), "{} bytes at {} of {}", size, offset, parameter_bytes(parameters));
  std::size_t at = 0;
  for (const auto& layer : parameters.layers)
    for (const auto& array : replicated_arrays(layer)) {
      const std::size_t begin = std::max(at, offset), end = std::min(at + array.size_bytes(), offset + size);
      if (begin < end) copy(reinterpret_cast<std::byte*>(array.data()) + (begin - at), begin - offset, end - begin);
      at += array.size_bytes();
    }
}

}  // namespace

void write_parameters(const Parameters& parameters, std::size_t offset, std::span<std::byte> bytes) {
  for_each_part(parameters, offset, bytes.size(),
                [&](const std::byte* array, std::size_t at, std::size_t count) { std::memcpy(bytes.data() + at, array, count); });
}

void read_parameters(std::span<const std::byte> bytes, std::size_t offset, const Parameters& parameters) {
  for_each_part(parameters, offset, bytes.size(),
                [&](std::byte* array, std::size_t at, std::size_t count) { std::memcpy(array, bytes.data() + at, count); });
}

void write_parameters(const Parameters& parameters, std::span<std::byte> bytes) {
  TESSERA_CHECK(bytes.size() == parameter_bytes(parameters), "{} bytes for {}", bytes.size(), parameter_bytes(parameters));
  write_parameters(parameters, 0, bytes);
}

void read_parameters(std::span<const std::byte> bytes, const Parameters& parameters) {
  TESSERA_CHECK(bytes.size() == parameter_bytes(parameters), "{} bytes for {}", bytes.size(), parameter_bytes(parameters));
  read_parameters(bytes, 0, parameters);
}

}  // namespace tessera::exec
