// What a resumed training needs besides its weights and momentum (checkpoint.hpp).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "observe/chart.hpp"

namespace tessera::darknet {

struct TrainingState {
  std::uint64_t seed = 1;
  std::uint64_t weights_hash = 0;  // of the weights file this belongs to
  double average_loss = -1;        // negative: none yet
  double best_precision = -1;      // mAP of _best.weights; negative: none yet
  std::vector<observe::ChartPoint> loss, precision;
};

std::string to_json(const TrainingState& state);
[[nodiscard]] base::Result<TrainingState> parse_training_state(const std::string& json, const std::string& name);

}  // namespace tessera::darknet
