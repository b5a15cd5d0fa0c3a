// The gradient of one batch: what this participant computed of it. In the coordinator, after a batch's last pass, all of it.
#pragma once

#include <span>
#include <vector>

#include "base/thread_pool.hpp"
#include "exec/parameters.hpp"
#include "graph/graph.hpp"
#include "kernels/update.hpp"

namespace tessera::exec {

// What one optimiser step needs beside gradients (Darknet's update_args).
struct OptimizerStep {
  float learning_rate = 0;
  float momentum = 0;
  float decay = 0;
  int batch = 1;  // images: batch * subdivisions
};

// Arrays that are summed over participants (program/gradient_chunks.hpp) are made, zeroed, when they are first asked for,
// and can be given up one by one: with one pass per batch only a layer or two has one at a time. Gradients of batch norm
// come from exchanged sums and are complete on every participant; they always exist.
class Gradients {
 public:
  explicit Gradients(const graph::Graph& graph);

  // Weights, then biases of a layer without batch norm; of these, the elements of the layer's window.
  std::span<float> summed(int node);
  std::span<float> weights(int node);
  std::span<float> filters(int node, geometry::Index first);  // weights from this filter on
  geometry::Range window(int node) const { return layers_[static_cast<std::size_t>(node)].window; }
  // Only this part of `summed` exists from now on. What there was of the layer is dropped.
  void set_window(int node, geometry::Range elements);
  std::span<float> biases(int node);  // of `summed`, or of batch norm
  std::span<float> scales(int node) { return layer(node).scales; }
  bool has_summed(int node) { return layer(node).exists; }
  void drop_summed(int node);
  std::size_t bytes() const;

  // `summed(node)` is `memory` from now on, which others use as well when this layer's gradient does not exist: whoever
  // begins with it clears it.
  void place_summed(int node, std::span<float> memory) { layer(node).placed = memory; }
  void forget_places();

  // From now on, what would be summed is added straight to the momentum arrays, as Darknet does. It cannot be undone: for
  // a device that computes alone, where no iteration is ever abandoned.
  void accumulate_in(const graph::Graph& graph, const Parameters& parameters);

  // Zeros everywhere. Memory is kept for the next batch.
  void clear();

  // One step of Darknet's optimiser with these (complete) gradients; clears them.
  void apply(const graph::Graph& graph, const Parameters& parameters, const OptimizerStep& step, base::ThreadPool& pool);
  // The same for biases and scales of batch norm alone; clears those.
  void apply_norm(const graph::Graph& graph, const Parameters& parameters, const OptimizerStep& step, base::ThreadPool& pool);

 private:
  struct Layer {
    std::size_t weights = 0, biases = 0;  // elements of the whole of `summed`
    std::size_t filter = 0;               // weights of one
    geometry::Range window;
    std::vector<float> summed;
    bool exists = false;                     // `summed` is of this batch
    std::span<float> placed;                 // instead of `summed`
    std::span<float> in_weights, in_biases;  // instead of `summed`, when accumulated in the momentum
    std::span<float> norm_biases, scales;
  };
  Layer& layer(int node) { return layers_[static_cast<std::size_t>(node)]; }

  bool in_updates_ = false;
  std::vector<float> norm_;
  std::vector<Layer> layers_;
  std::vector<float> spare_;  // the largest array given up, for the next one asked for
};

// `step` for the layer `node`.
kernels::UpdateParameters update_parameters(const graph::Graph& graph, int node, const OptimizerStep& step);

}  // namespace tessera::exec
