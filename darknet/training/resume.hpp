// Where a training starts: from nothing, from pretrained weights, or where another one stopped.
#pragma once

#include <string>

#include "base/result.hpp"
#include "darknet/commands/arguments.hpp"
#include "darknet/training/training_state.hpp"
#include "darknet/upstream/network_file.hpp"

namespace tessera::darknet {

struct ResumePoint {
  std::string weights;  // "" for none
  TrainingState state;  // as saved beside the weights, or fresh
  bool has_state = false;
};

// Looks for the state beside the weights. `-seed` wins over the state's seed; the default seed is 1, so that two runs
// of one command train the same network.
[[nodiscard]] base::Result<ResumePoint> find_resume_point(const std::string& weights, const Arguments& arguments);

// Loads weights, and momentum and state where they belong to these weights; tells what it did in one line. `clear`
// starts counting images at 0. An error when there is nothing left to train.
[[nodiscard]] base::Result<TrainingState> start_from(LoadedNetwork& loaded, const ResumePoint& resume, bool clear);

}  // namespace tessera::darknet
