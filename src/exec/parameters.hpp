// Trainable values of the wrapped layers, as every holder of a replica keeps them.
#pragma once

#include <span>
#include <vector>

#include "graph/graph.hpp"

namespace tessera::exec {

// Views into memory owned elsewhere (Darknet's layers in the coordinator, ParameterStorage in a worker). *_updates hold
// the momentum as Darknet does. Arrays of batch norm are empty for layers without it, all are for layers that are not
// convolutional.
struct LayerParameters {
  std::span<float> weights;  // [out.c][in.c][kernel][kernel]
  std::span<float> biases, scales, rolling_mean, rolling_variance;
  std::span<float> weight_updates, bias_updates, scale_updates;
};

struct Parameters {
  std::vector<LayerParameters> layers;  // by node
};

// The arrays of one layer that every participant has, in a fixed order, for sending and hashing: all but the momentum that
// is kept in shards (exec/shard.hpp).
std::vector<std::span<float>> replicated_arrays(const LayerParameters& layer);

// Zeroed memory for the parameters of a graph.
class ParameterStorage {
 public:
  enum class Holds {
    kEverything,
    kReplica,  // only what is replicated: the other arrays are empty
  };
  explicit ParameterStorage(const graph::Graph& graph, Holds holds = Holds::kEverything);
  const Parameters& parameters() const { return parameters_; }
  std::size_t bytes() const { return memory_.size() * sizeof(float); }

 private:
  std::vector<float> memory_;
  Parameters parameters_;
};

// Of all replicated arrays in that order (wire::content_hash).
std::uint64_t parameters_hash(const Parameters& parameters);

// The replicated arrays of all layers one after the other (little-endian floats).
std::size_t parameter_bytes(const Parameters& parameters);
void write_parameters(const Parameters& parameters, std::span<std::byte> bytes);
void read_parameters(std::span<const std::byte> bytes, const Parameters& parameters);
// The same for the bytes [offset, offset + bytes.size()) of that sequence.
void write_parameters(const Parameters& parameters, std::size_t offset, std::span<std::byte> bytes);
void read_parameters(std::span<const std::byte> bytes, std::size_t offset, const Parameters& parameters);

}  // namespace tessera::exec
