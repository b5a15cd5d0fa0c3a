// The end of an iteration in virtual time: every owner updates its chunks of the weights and sends them to the others. And
// what the optimiser keeps in memory.
#pragma once

#include <vector>

#include "graph/graph.hpp"
#include "sim/simulator.hpp"

namespace tessera::sim {

// Seconds; adds busy time, bytes and messages to `devices`, which are as many as participants. Mirrors exec/shard.hpp.
double update_weights(const graph::Graph& graph, const program::Sharding& sharding, const std::vector<DeviceProfile>& profiles,
                      std::vector<DeviceForecast>& devices);

// Weights and statistics as `participant` of the set holds them, and for training momentum and gradients, as far as they
// are not among the tensors (Plan::single_pass).
std::size_t parameter_bytes(const graph::Graph& graph, const program::ProgramSet& set, int participant);

}  // namespace tessera::sim
