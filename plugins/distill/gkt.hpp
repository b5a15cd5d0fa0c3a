// FedGKT in rounds: every edge trains the small network on its own pictures, the server the large one on their features.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "cfg/data_file.hpp"
#include "darknet/upstream/network_file.hpp"
#include "data/image_set.hpp"

namespace tessera::distill {

struct GktRun {
  cfg::DataFile data;
  std::string cfg_path;
  std::uint64_t seed = 1;
  bool resume = false;  // go on after the last whole round in the backup folder
  const data::ImageSet* train = nullptr;
  const data::ImageSet* valid = nullptr;  // decides which round was best
  const data::ImageSet* test = nullptr;   // the final figure only; may be null
};

// Trains as [gkt] says, all edges one after another in this process. Writes backup/NAME.gkt (everything the next round needs, after
// every round, in one step), NAME_rounds.csv, NAME_rounds.png, and the best round's NAME_best.weights and EDGE_best.weights.
// Returns the exit code.
[[nodiscard]] base::Result<int> train_gkt(darknet::LoadedNetwork& server, const GktRun& run);

}  // namespace tessera::distill
