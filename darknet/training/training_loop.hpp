// Darknet's training loop: batch, update, log line, saves, tests and chart, until max_batches. Used by `detector
// train` and `classifier train`.
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/result.hpp"
#include "cfg/cfg_check.hpp"
#include "cfg/cfg_limits.hpp"
#include "darknet/training/checkpoint.hpp"
#include "darknet/training/engine.hpp"
#include "darknet/training/saver.hpp"
#include "data/batch_loader.hpp"

namespace tessera::darknet {

struct TrainingOptions {
  std::string backup;  // folder
  std::string name;    // of the cfg: files are <name>_last.weights, ...
  std::string log;     // a file that gets a copy of every log line; "" for none
  std::uint64_t seed = 1;
  std::uint64_t test_every = 0;  // iterations between calls of test(); 0: never
  std::string precision_name = "mAP";
  int truth_columns = 0;
  int loader_threads = 1;
  std::vector<cfg::InputSize> sizes;  // that random=1 draws from; empty: the cfg's alone
  bool verbose = false;
};

// `make` fills samples; `problems` hands out one-line messages of the loader since the last call; `test` returns the
// current precision in 0..1 on the network as it is (the network has its cfg size then).
struct TrainingHooks {
  data::MakeSample make;
  std::function<std::vector<std::string>()> problems;
  std::function<base::Result<double>()> test;
};

class TrainingLoop {
 public:
  // `net` and `engine` outlive the loop.
  TrainingLoop(network* net, Engine& engine, TrainingOptions options, TrainingHooks hooks, TrainingState state);

  // Until max_batches, an interrupt or an error. Returns the exit code.
  [[nodiscard]] base::Result<int> run();

  // run(), then engine.detach() whatever the outcome.
  [[nodiscard]] base::Result<int> run_and_detach();

 private:
  struct LogCloser {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };

  base::Status open_log();
  data::BatchShape shape_at(std::uint64_t iteration) const;
  base::Status resize_to(int width, int height);
  base::Status prepare(const data::BatchShape& shape, std::uint64_t iteration);
  base::Result<data::Batch> again(std::uint64_t iteration);
  base::Result<bool> step();
  void report(std::uint64_t iteration, float loss, double rate, double seconds);
  void show_live(std::uint64_t iteration, double seconds);
  base::Status save_as_planned(std::uint64_t iteration);
  base::Status save(const std::string& suffix);
  base::Status save_last();
  base::Status test(std::uint64_t iteration);
  void draw_chart();
  std::string loss_text(float loss) const;
  std::string diverged(std::uint64_t iteration, const std::string& why) const;
  std::string weights_path(const std::string& suffix) const;

  network* net_;
  Engine& engine_;
  TrainingOptions options_;
  TrainingHooks hooks_;
  TrainingState state_;
  std::unique_ptr<std::FILE, LogCloser> log_;
  std::optional<data::BatchLoader> loader_;
  std::optional<data::BatchLoader> again_;  // of iterations that are repeated
  int cfg_width_, cfg_height_;
  std::uint64_t first_iteration_ = 0;
  mutable std::mutex saved_mutex_;
  std::string last_saved_;         // what to go back to
  std::uint64_t last_posted_ = 0;  // iteration of the latest checkpoint
  base::TimePoint live_shown_, table_shown_;
  double computing_seconds_ = 0;
  Saver saver_;  // goes first
};

// The input's size for multi-scale training at one iteration: one of `sizes` (cfg::multi_scale_sizes()), a new one every 10
// iterations, and the cfg's own for the first 10 and the last tenth (at most 200 iterations). Depends on its arguments only.
cfg::InputSize multi_scale_size(std::uint64_t seed, std::uint64_t iteration, std::uint64_t iterations, cfg::InputSize own,
                                const std::vector<cfg::InputSize>& sizes);

// random=1 needs layers that upstream's resize_network() knows.
[[nodiscard]] base::Status check_resizable(const cfg::Cfg& cfg);

// Upper bound of what one weights file of this network has.
std::uint64_t weights_bytes(const network* net);

// Is a numbered weights file due? Every 1000 iterations up to 10,000, then every 10,000.
bool numbered_save_due(std::uint64_t iteration);

}  // namespace tessera::darknet
