// Trainable values, as far as they are on one device.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "geometry/tensor_view.hpp"
#include "graph/graph.hpp"
#include "program/program.hpp"

namespace tessera::exec {

// Views into memory owned elsewhere (Darknet's layers on the host, ParameterStorage on others). *_updates hold the momentum as
// Darknet does. Arrays of batch norm are empty for layers without it, all are for layers that are not convolutional.
struct LayerParameters {
  geometry::Range filters;                                          // whose weights are here
  geometry::Range home;                                             // whose momentum is here
  std::span<float> weights;                                         // [filters][in.c][kernel][kernel]
  std::span<float> biases, scales, rolling_mean, rolling_variance;  // of all filters
  std::span<float> weight_updates;                                  // [home][in.c][kernel][kernel]
  std::span<float> bias_updates, scale_updates;                     // [home]
};

struct Parameters {
  std::vector<LayerParameters> layers;  // by node
};

// The array behind a slot of a node, in the coordinates of program::Buffer's boxes: its box says which filters are here.
geometry::FloatView parameter_view(const graph::Graph& graph, const Parameters& parameters, int node, program::Slot slot);

// Calls visit(array) for every array of a layer, momentum included, in a fixed order.
void for_each_array(const LayerParameters& layer, const std::function<void(std::span<float>)>& visit);

// Zeroed memory for parameters of a graph.
class ParameterStorage {
 public:
  // All of them.
  explicit ParameterStorage(const graph::Graph& graph);
  // Of some filters only, by node (program::Program's stored_filters and home_filters).
  ParameterStorage(const graph::Graph& graph, const std::vector<geometry::Range>& filters, const std::vector<geometry::Range>& home);

  const Parameters& parameters() const { return parameters_; }
  std::size_t bytes() const { return memory_.size() * sizeof(float); }
  // All filters of these are here, and the momentum is of these, if of any.
  bool covers(const std::vector<geometry::Range>& filters, const std::vector<geometry::Range>& home) const;

 private:
  std::vector<float> memory_;
  Parameters parameters_;
};

}  // namespace tessera::exec
