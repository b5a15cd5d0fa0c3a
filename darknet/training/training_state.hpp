// What a resumed training needs besides its weights, kept beside them: `x_last.weights` has `x_last.state` (JSON)
// and `x_last.momentum`.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "observe/chart.hpp"

namespace tessera::darknet {

struct TrainingState {
  std::uint64_t seed = 1;
  std::uint64_t weights_hash = 0;  // of the weights this belongs to
  double average_loss = -1;        // negative: none yet
  double best_precision = -1;      // mAP of _best.weights; negative: none yet
  std::vector<observe::ChartPoint> loss, precision;
};

// "backup/x_last.weights" -> "backup/x_last" + extension.
std::string sidecar_path(const std::string& weights, const std::string& extension);

std::string to_json(const TrainingState& state);
[[nodiscard]] base::Result<TrainingState> parse_training_state(const std::string& json, const std::string& name);

[[nodiscard]] base::Status save_training_state(const TrainingState& state, const std::string& path);
[[nodiscard]] base::Result<TrainingState> load_training_state(const std::string& path);

}  // namespace tessera::darknet
