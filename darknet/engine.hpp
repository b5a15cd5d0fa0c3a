// The seam between Darknet's training loop and whatever computes a batch: stock Darknet itself, or the
// distributed engine of plugins/distributed.
#pragma once

#include <ctime>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <darknet.h>
#include "base/result.hpp"
#include "observe/device_report.hpp"

namespace tessera::darknet {

// One `key=value` of the cfg's [distributed] section, with the line it stands on.
struct Setting {
  std::string value;
  int line = 0;
};

// The [distributed] section as written. Keys are known and single (the cfg check refuses others); values are
// checked by whoever understands them, who reports `file:line`.
struct DistributedSection {
  bool present = false;
  int first_layer = 0;  // index of the first layer after the section
  std::string file;     // the cfg
  int line = 0;         // of the section header
  std::map<std::string, Setting> settings;
};

struct EngineOptions {
  std::string program;  // path of the running program, to start local workers with
  bool insecure = false;
  bool verbose = false;
  std::uint64_t seed = 0;
};

// Computes training batches for one network. Used from one thread; the network outlives the engine.
//
// Between two calls net->layers hold the trained weights, biases, scales and rolling statistics, and the
// *_updates arrays hold the momentum, exactly where stock Darknet keeps them: saving, testing
// (set_batch_network + network_predict) and resize_network() work at any moment on the attached network.
class Engine {
 public:
  virtual ~Engine() = default;

  // All subdivisions forward and backward and the update, net->seen advanced by the whole batch. `batch` holds
  // net->batch * net->subdivisions rows of the network's current input size. Returns the mean loss per image,
  // as train_network() does. What can be recovered (a lost worker) is recovered inside.
  [[nodiscard]] virtual base::Result<float> train_batch(network* net, const data& batch) = 0;

  // One entry per device, the coordinator first; counters cover the time since the previous call.
  virtual std::vector<observe::DeviceReport> device_reports() = 0;

  // Ends the session (workers are told, local ones stop) and gives the network its own functions back.
  // The engine computes nothing afterwards.
  [[nodiscard]] virtual base::Status detach(network* net) = 0;
};

// Attaches an engine to a parsed network whose weights and momentum are loaded already. Without a
// [distributed] section it is stock Darknet's train_network().
[[nodiscard]] base::Result<std::unique_ptr<Engine>> attach(network* net, const DistributedSection& section,
                                                           const EngineOptions& options);

}  // namespace tessera::darknet
