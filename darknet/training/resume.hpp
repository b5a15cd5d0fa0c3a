// Where a training starts: from nothing, from pretrained weights, or where another one stopped.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/result.hpp"
#include "darknet/training/checkpoint.hpp"
#include "darknet/upstream/network_file.hpp"

namespace tessera::darknet {

struct ResumePoint {
  std::string weights;                   // "" for none
  TrainingState state;                   // of the checkpoint, or fresh
  std::optional<Checkpoint> checkpoint;  // that the weights belong to
  bool from_checkpoint = false;          // its weights are the ones to load
};

// Where a training of this name keeps its files.
struct TrainingFiles {
  std::string folder, name;
};

// With `resume`, the newest whole checkpoint, if there is one. Else looks for the checkpoint that the weights belong to, beside them,
// unless `clear`. `seed` wins over the state's seed; the default seed is 1, so that two runs of one command train the same network.
[[nodiscard]] base::Result<ResumePoint> find_resume_point(const std::string& weights, bool clear, std::optional<std::uint64_t> seed,
                                                          const std::optional<TrainingFiles>& resume = std::nullopt);

// Loads weights, and momentum and state where they belong to these weights; tells what it did in one line. `clear`
// starts counting images at 0. An error when there is nothing left to train.
[[nodiscard]] base::Result<TrainingState> start_from(LoadedNetwork& loaded, const ResumePoint& resume, bool clear);

}  // namespace tessera::darknet
