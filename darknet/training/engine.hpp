// The seam between Darknet's networks and whatever computes them: our kernels in this process or on workers
// (plugins/distributed), or upstream's own code.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "cfg/distributed_section.hpp"
#include "data/batch_loader.hpp"
#include "observe/device_report.hpp"

struct network;  // upstream's

namespace tessera::darknet {

struct EngineOptions {
  std::string program;  // path of the running program, to start local workers with
  bool insecure = false;
  bool verbose = false;
  std::uint64_t seed = 0;
  std::string backend;        // of -backend: kStockBackend, a backend's name, "auto", or "" when it was not given
  std::string backend_cache;  // file that remembers measured choices of a backend; "": none
};

// The backend that stands for upstream's own code.
inline constexpr const char* kStockBackend = "stock";

// Computes training batches for one network. Used from one thread; the network outlives the engine.
//
// After collect() net->layers hold the trained weights, biases, scales and rolling statistics, and the *_updates arrays hold the
// momentum, exactly where stock Darknet keeps them. In between they may lie on other devices; testing (set_batch_network +
// network_predict) and resize_network() work on the attached network at any moment.
class Engine {
 public:
  virtual ~Engine() = default;

  // All subdivisions forward and backward and the update, net->seen advanced by the whole batch. `batch` holds
  // net->batch * net->subdivisions rows of the network's current input size. Returns the mean loss per image,
  // as train_network() does. What can be recovered (a lost worker) is recovered inside. `next`: the batch that will be
  // trained after this one, if it is known when it is asked for; its pictures may travel to workers already. Rows are known
  // by their addresses, and must stay as they are until they are trained.
  using NextBatch = std::function<std::optional<data::Batch>()>;
  [[nodiscard]] virtual base::Result<float> train_batch(network* net, const data::Batch& batch, const NextBatch& next) = 0;

  // Brings everything that was trained into net->layers, before it is saved or looked at.
  [[nodiscard]] virtual base::Status collect(network*) { return {}; }

  // Makes the network ready for the iteration of this number once more (its input size, the random numbers of dropout) and gives its
  // batch: the same samples as before. With it the engine need not collect after every iteration, but goes back when a device is lost.
  using MakeAgain = std::function<base::Result<data::Batch>(std::uint64_t iteration)>;
  virtual void set_again(const MakeAgain&) {}

  // One entry per device, the coordinator first; counters cover the time since the previous call.
  virtual std::vector<observe::DeviceReport> device_reports() = 0;

  // Ends the session (workers are told, local ones stop) and gives the network its own functions back.
  // The engine computes nothing afterwards.
  [[nodiscard]] virtual base::Status detach(network* net) = 0;
};

// While it lives, network_predict() and forward_network() for tests run on our kernels in this process, as far as
// they can. The network must not be trained, resized or given another batch, and outlives it.
class Inference {
 public:
  virtual ~Inference() = default;
};

}  // namespace tessera::darknet
