// All that a training goes on from, in one file, backup/<name>_<iteration>.checkpoint: weights, momentum (or moments), state.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.hpp"
#include "darknet/training/training_state.hpp"

namespace tessera::darknet {

inline constexpr std::size_t kCheckpointsKept = 2;

struct Checkpoint {
  TrainingState state;
  std::string weights, momentum;  // weights_image() and momentum_image() of weights_file.hpp
};

// "TSRCKPT1" | bytes of state, weights, momentum u64 LE each | state (JSON) | weights | momentum | XXH3 of all before u64 LE.
// Large arrays are held once: `weights` is let go of, and `append_momentum` appends to what is made.
struct CheckpointBytes {
  std::string all;
  std::size_t weights_at = 0, weights_bytes = 0;
};
CheckpointBytes checkpoint_bytes(TrainingState state, std::string weights, const std::function<void(std::string&)>& append_momentum);

// Refuses what is cut off or damaged in any byte.
[[nodiscard]] base::Result<Checkpoint> read_checkpoint(const std::string& path);

std::string checkpoint_path(const std::string& folder, const std::string& name, std::uint64_t iteration);

// Of one training, the newest first.
std::vector<std::string> find_checkpoints(const std::string& folder, const std::string& name);

// Removes those of this training older than `newest` and the kCheckpointsKept - 1 before it; and those of later iterations, which a
// training left behind that was started over.
void prune_checkpoints(const std::string& folder, const std::string& name, const std::string& newest);

// Of a whole file.
std::uint64_t weights_bytes_hash(std::string_view bytes);

// Held while a training writes <name>_* into the folder. An error says who holds it.
class FolderLock {
 public:
  [[nodiscard]] static base::Result<FolderLock> take(const std::string& folder, const std::string& name);
  ~FolderLock();
  FolderLock(FolderLock&& other) noexcept : handle_(std::exchange(other.handle_, -1)) {}
  FolderLock& operator=(FolderLock&&) = delete;

 private:
  explicit FolderLock(int handle) : handle_(handle) {}
  int handle_;
};

}  // namespace tessera::darknet
