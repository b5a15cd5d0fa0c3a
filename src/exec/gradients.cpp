#include "exec/gradients.hpp"

#include <algorithm>

#include "kernels/update.hpp"

namespace tessera::exec {

Gradients::Gradients(const graph::Graph& graph) : layers_(graph.layers.size()) {
  std::size_t partial = 0, norm = 0;
  for (int node = 0; node < graph.size(); ++node) {
    if (!graph[node].trainable()) continue;
    const auto channels = static_cast<std::size_t>(graph[node].out.c);
    partial += static_cast<std::size_t>(graph.weights(node)) + (graph[node].batch_normalize ? 0 : channels);
    norm += graph[node].batch_normalize ? 2 * channels : 0;
  }
  partial_.resize(partial);
  norm_.resize(norm);
  float *next = partial_.data(), *next_norm = norm_.data();
  const auto take = [](float*& from, std::size_t count) {
    const std::span<float> span(from, count);
    from += count;
    return span;
  };
  for (int node = graph.size() - 1; node >= 0; --node) {
    if (!graph[node].trainable()) continue;
    const auto channels = static_cast<std::size_t>(graph[node].out.c);
    const bool normalized = graph[node].batch_normalize;
    layer(node).weights = take(next, static_cast<std::size_t>(graph.weights(node)));
    layer(node).biases = take(normalized ? next_norm : next, channels);
    layer(node).scales = take(next_norm, normalized ? channels : 0);
  }
}

void Gradients::accumulate_in(const graph::Graph& graph, const Parameters& parameters) {
  for (int node = 0; node < graph.size(); ++node) {
    if (!graph[node].trainable()) continue;
    const LayerParameters& p = parameters.layers[static_cast<std::size_t>(node)];
    layer(node).weights = p.weight_updates;
    if (!graph[node].batch_normalize) layer(node).biases = p.bias_updates;
  }
  std::vector<float>().swap(partial_);  // an assignment would keep the memory
  in_updates_ = true;
}

void Gradients::clear() {
  std::fill(partial_.begin(), partial_.end(), 0.0f);
  std::fill(norm_.begin(), norm_.end(), 0.0f);
}

void Gradients::apply(const graph::Graph& graph, const Parameters& parameters, const OptimizerStep& step, base::ThreadPool& pool) {
  for (int node = 0; node < graph.size(); ++node) {
    if (!graph[node].trainable()) continue;
    const LayerParameters& p = parameters.layers[static_cast<std::size_t>(node)];
    const kernels::UpdateParameters update{step.learning_rate * graph[node].learning_rate_scale, step.momentum, step.decay, step.batch};
    const bool normalized = graph[node].batch_normalize;
    const auto unless_in_updates = [&](std::span<float> gradient) { return in_updates_ ? std::span<float>() : gradient; };
    kernels::update_biases(update, p.biases, p.bias_updates, normalized ? biases(node) : unless_in_updates(biases(node)), pool);
    if (normalized) kernels::update_biases(update, p.scales, p.scale_updates, scales(node), pool);
    kernels::update_weights(update, p.weights, p.weight_updates, unless_in_updates(weights(node)), pool);
  }
  clear();
}

}  // namespace tessera::exec
