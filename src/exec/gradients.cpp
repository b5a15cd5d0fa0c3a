#include "exec/gradients.hpp"

#include <algorithm>

#include "base/check.hpp"
#include "program/gradient_chunks.hpp"

namespace tessera::exec {

Gradients::Gradients(const graph::Graph& graph) : layers_(graph.layers.size()) {
  std::size_t norm = 0;
  for (int node = 0; node < graph.size(); ++node)
    if (graph[node].batch_normalize) norm += 2 * static_cast<std::size_t>(graph[node].out.c);
  norm_.resize(norm);
  std::span<float> left(norm_);
  const auto take = [&](std::size_t count) {
    const std::span<float> taken = left.first(count);
    left = left.subspan(count);
    return taken;
  };
  for (int node = 0; node < graph.size(); ++node) {
    if (!graph[node].trainable()) continue;
    Layer& l = layer(node);
    const auto channels = static_cast<std::size_t>(graph[node].out.c);
    l.weights = static_cast<std::size_t>(graph.weights(node));
    l.biases = static_cast<std::size_t>(program::summed_elements(graph, node)) - l.weights;
    l.filter = l.weights / channels;
    l.window = {0, static_cast<geometry::Index>(l.weights + l.biases)};
    l.norm_biases = take(graph[node].batch_normalize ? channels : 0);
    l.scales = take(graph[node].batch_normalize ? channels : 0);
  }
}

std::span<float> Gradients::summed(int node) {
  Layer& l = layer(node);
  if (!l.placed.empty()) return l.placed;
  if (!l.exists) {
    if (l.summed.empty()) l.summed = std::move(spare_), spare_ = {};
    l.summed.assign(static_cast<std::size_t>(l.window.size()), 0.0f);
    l.exists = true;
  }
  return l.summed;
}

std::span<float> Gradients::weights(int node) {
  Layer& l = layer(node);
  if (in_updates_) return l.in_weights;
  return summed(node).first(std::min(l.weights, static_cast<std::size_t>(l.window.size())));
}

std::span<float> Gradients::filters(int node, geometry::Index first) {
  const Layer& l = layer(node);
  const geometry::Index begin = first * static_cast<geometry::Index>(l.filter) - (in_updates_ ? 0 : l.window.begin);
  TESSERA_CHECK(begin >= 0, "filter {} of node {} is not in the gradient's window", first, node);
  return weights(node).subspan(static_cast<std::size_t>(begin));
}

void Gradients::set_window(int node, geometry::Range elements) {
  Layer& l = layer(node);
  if (l.window == elements) return;
  l.window = elements;
  l.summed = {};
  l.exists = false;
}

std::span<float> Gradients::biases(int node) {
  Layer& l = layer(node);
  if (l.biases == 0) return l.norm_biases;
  return in_updates_ ? l.in_biases : summed(node).subspan(l.weights);
}

void Gradients::drop_summed(int node) {
  std::vector<float> given_up = std::move(layer(node).summed);
  layer(node).summed = {};
  layer(node).exists = false;
  if (given_up.capacity() > spare_.capacity()) spare_ = std::move(given_up);
}

void Gradients::forget_places() {
  for (Layer& l : layers_) l.placed = {};
}

std::size_t Gradients::bytes() const {
  std::size_t elements = norm_.size() + spare_.capacity();
  for (const Layer& l : layers_) elements += l.summed.capacity();
  return elements * sizeof(float);
}

void Gradients::accumulate_in(const graph::Graph& graph, const Parameters& parameters) {
  for (int node = 0; node < graph.size(); ++node) {
    if (!graph[node].trainable()) continue;
    const LayerParameters& p = parameters.layers[static_cast<std::size_t>(node)];
    layer(node).in_weights = p.weight_updates;
    if (!graph[node].batch_normalize) layer(node).in_biases = p.bias_updates;
  }
  in_updates_ = true;
  clear();
}

void Gradients::clear() {
  for (Layer& l : layers_) l.exists = false;
  std::fill(norm_.begin(), norm_.end(), 0.0f);
}

void Gradients::apply(const graph::Graph& graph, const Parameters& parameters, const OptimizerStep& step, base::ThreadPool& pool) {
  apply_norm(graph, parameters, step, pool);
  for (int node = 0; node < graph.size(); ++node) {
    if (!graph[node].trainable()) continue;
    const LayerParameters& p = parameters.layers[static_cast<std::size_t>(node)];
    const auto update = update_parameters(graph, node, step);
    const auto unless_in_updates = [&](std::span<float> gradient) { return in_updates_ ? std::span<float>() : gradient; };
    if (!graph[node].batch_normalize) kernels::update_biases(update, p.biases, p.bias_updates, unless_in_updates(biases(node)), pool);
    kernels::update_weights(update, p.weights, p.weight_updates, unless_in_updates(weights(node)), pool);
  }
  clear();
}

void Gradients::apply_norm(const graph::Graph& graph, const Parameters& parameters, const OptimizerStep& step, base::ThreadPool& pool) {
  for (int node = 0; node < graph.size(); ++node) {
    if (!graph[node].batch_normalize) continue;
    const LayerParameters& p = parameters.layers[static_cast<std::size_t>(node)];
    const auto update = update_parameters(graph, node, step);
    kernels::update_biases(update, p.biases, p.bias_updates, biases(node), pool);
    kernels::update_biases(update, p.scales, p.scale_updates, scales(node), pool);
  }
  std::fill(norm_.begin(), norm_.end(), 0.0f);
}

kernels::UpdateParameters update_parameters(const graph::Graph& graph, int node, const OptimizerStep& step) {
  return {step.learning_rate * graph[node].learning_rate_scale, step.momentum, step.decay, step.batch};
}

}  // namespace tessera::exec
