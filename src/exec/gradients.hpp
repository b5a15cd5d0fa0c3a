// The gradient of one batch: what this participant computed, later the sum over all.
#pragma once

#include <span>
#include <vector>

#include "base/thread_pool.hpp"
#include "exec/parameters.hpp"
#include "graph/graph.hpp"

namespace tessera::exec {

// What one optimiser step needs beside gradients (Darknet's update_args).
struct OptimizerStep {
  float learning_rate = 0;
  float momentum = 0;
  float decay = 0;
  int batch = 1;  // images: batch * subdivisions
};

// `partial()` holds the parts that are computed from owned boxes and summed over participants: weights of all layers
// (last layer first, the order in which back-propagation finishes them) and biases of layers without batch norm.
// Gradients of batch norm come from exchanged sums and are complete on every participant already.
class Gradients {
 public:
  explicit Gradients(const graph::Graph& graph);

  std::span<float> partial() { return partial_; }
  std::span<float> weights(int node) { return layer(node).weights; }
  std::span<float> biases(int node) { return layer(node).biases; }  // of `partial`, or of batch norm
  std::span<float> scales(int node) { return layer(node).scales; }
  std::size_t bytes() const { return (partial_.size() + norm_.size()) * sizeof(float); }

  // From now on, what would go to partial() is added straight to the momentum arrays, as Darknet does, and partial() is
  // empty. It cannot be undone: for a device that computes alone, where no iteration is ever abandoned.
  void accumulate_in(const graph::Graph& graph, const Parameters& parameters);

  void clear();

  // One step of Darknet's optimiser with these (complete) gradients; clears them.
  void apply(const graph::Graph& graph, const Parameters& parameters, const OptimizerStep& step, base::ThreadPool& pool);

 private:
  struct Layer {
    std::span<float> weights, biases, scales;
  };
  Layer& layer(int node) { return layers_[static_cast<std::size_t>(node)]; }

  bool in_updates_ = false;
  std::vector<float> partial_, norm_;
  std::vector<Layer> layers_;
};

}  // namespace tessera::exec
