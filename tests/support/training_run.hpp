// Trainings by the built program, in a folder with a tiny data set, and their weights files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/support/worker_process.hpp"

namespace tessera::testing {

// A cfg as tests vary it. The learning rate is low: at a higher one, rounding decides on which side of zero some value of a
// leaky activation falls, and 30 iterations later weights differ by 1e-3 instead of 1e-6. The last of 30 iterations still
// moves the weights by 1e-2. The network has every kind of layer that matters to tiles: convolutions with and without
// batch normalisation and of stride 2, max-pooling, a route, a shortcut, an upsampling and a YOLO head.
struct TrainingCfg {
  int batch = 4, subdivisions = 2;
  int iterations = 30;
  int side = 64;
  double learning_rate = 0.0002;
  bool random = false;
  std::string network;  // sections instead of the usual ones before the head
  std::string whole;    // the text of the cfg instead of all of this
  bool heavy = false;   // with 5 million weights more, so that most of an iteration is summing gradients and sharing updates
  // Lines of the [distributed] section, for example "workers=local:4"; none: no section, this process alone.
  std::vector<std::string> distributed;
  // Of that section. The reference adds in one order on every processor: what a test compares does not hang on the machine.
  std::string backend = "reference";

  std::string text() const;
};

// Two classes, bright squares and dark discs on grey noise, and a few pictures with both: 20 to train with, 6 to
// test with. Removed by the destructor.
class TrainingFolder {
 public:
  TrainingFolder();
  ~TrainingFolder();
  TrainingFolder(const TrainingFolder&) = delete;
  TrainingFolder& operator=(const TrainingFolder&) = delete;

  std::string path(const std::string& name = ".") const { return (folder_ / name).string(); }
  void write(const std::string& name, const std::string& text) const;
  std::string read(const std::string& name) const;
  // cluster.json with workers at these addresses.
  void write_cluster_file(const std::vector<std::string>& addresses, const std::string& name = "cluster.json") const;
  // Sockets and directories that sessions have left behind.
  std::vector<std::string> leftovers() const;

 private:
  std::filesystem::path folder_;
};

// `darknet detector train obj.data NAME.cfg` in the folder.
class TrainingRun : public Process {
 public:
  // Writes NAME.cfg. `before`: what stands in front of the command (ip netns exec ...).
  TrainingRun(const TrainingFolder& folder, const std::string& name, const TrainingCfg& cfg, const std::vector<std::string>& options = {},
              const std::vector<std::string>& before = {});

  // The processes of local workers, in order; waits until they are known.
  std::vector<pid_t> worker_pids() const;
  // Waits until the log line of this iteration is there.
  void wait_for_iteration(int iteration) const;
  // Waits for the end, and throws when it is not exit code 0. The bytes of NAME_final.weights.
  std::string finish(double limit_seconds = 60);

 private:
  const TrainingFolder& folder_;
  const std::string name_;
  const std::size_t workers_;
};

// A training from start to end.
std::string train(const TrainingFolder& folder, const std::string& name, const TrainingCfg& cfg,
                  const std::vector<std::string>& options = {});

std::uint64_t seen_images(const std::string& weights);
// ‖a - b‖ / ‖b‖ over all floats behind the header; infinity when the files have different lengths.
double weights_distance(const std::string& a, const std::string& b);

}  // namespace tessera::testing
