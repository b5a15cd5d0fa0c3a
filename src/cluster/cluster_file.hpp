// Which workers there are: "local:N", or a JSON file {"workers": [{"name": "pi1", "address": "tcp://pi1.local:5555",
// "speed": 1.0, "threads": 0, "memory_mb": 0}, ...]} of which only the address is needed. For `plan -mode split` also "gflops",
// "bandwidth_mbit" and "batch" of a worker, and {"server": {"gflops": 200, "bandwidth_mbit": 940}} beside "workers".
#pragma once

#include <string>
#include <vector>

#include "base/result.hpp"

namespace tessera::cluster {

struct WorkerSpec {
  std::string name;
  std::string address;
  double speed = 1.0;                     // relative to the others; shares of rows and columns follow it
  int threads = 0;                        // 0: all its cores
  int memory_mb = 0;                      // 0: what it reports
  double gflops = 0, bandwidth_mbit = 0;  // 0: as the profile says
  int batch = 0;                          // samples of its own a round; 0: as the scheduler says
};

// What trains the layers behind the cuts.
struct ServerSpec {
  double gflops = 200, bandwidth_mbit = 940;
};

base::Result<std::vector<WorkerSpec>> read_cluster_file(const std::string& path);
base::Result<ServerSpec> read_server(const std::string& path);

}  // namespace tessera::cluster
