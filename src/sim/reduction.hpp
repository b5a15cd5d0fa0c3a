// The end of an iteration in virtual time: gradients are summed over all participants, then applied by each.
#pragma once

#include <vector>

#include "graph/graph.hpp"
#include "plan/plan.hpp"
#include "sim/simulator.hpp"

namespace tessera::sim {

// Seconds of both; adds busy time, bytes and messages to `devices`. Mirrors exec/all_reduce.hpp.
double reduce_gradients(const graph::Graph& graph, const plan::Plan& plan, const std::vector<DeviceProfile>& profiles,
                        std::vector<DeviceForecast>& devices);

// Weights, statistics and, for training, gradients and momentum, as every participant holds them.
std::size_t parameter_bytes(const graph::Graph& graph, program::Mode mode);

}  // namespace tessera::sim
