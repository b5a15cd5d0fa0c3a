// `darknet plan -mode split`.
#pragma once

#include <vector>

#include "cluster/cluster_file.hpp"
#include "darknet/commands/arguments.hpp"
#include "graph/graph.hpp"
#include "sim/simulator.hpp"

namespace tessera::darknet {

// Prints the schedule of `graph` over the devices, for `batch` pictures a round if they have none of their own. What a device
// does not say about itself is the profile's.
base::Result<int> run_split_plan(const Arguments& arguments, const graph::Graph& graph, long batch,
                                 const std::vector<cluster::WorkerSpec>& workers, const cluster::ServerSpec& server,
                                 const sim::DeviceProfile& profile);

}  // namespace tessera::darknet
