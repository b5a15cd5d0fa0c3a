// A network parsed by stock Darknet whose wrapped range is run by an interpreter of all participants in this process, and
// everything around it by stock Darknet's own layers: what `darknet` does, without processes or commands.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "exec/interpreter.hpp"
#include "plugins/distributed/network_graph.hpp"
#include "tests/support/oracle.hpp"
#include "tests/support/random.hpp"

namespace tessera::testing {

// Sends standard output and standard error to /dev/null while it lives: upstream's layers print at every pass.
class Quiet {
 public:
  Quiet();
  ~Quiet();
  Quiet(const Quiet&) = delete;
  Quiet& operator=(const Quiet&) = delete;

 private:
  int out_, err_;
};

// Upstream's region layer has an empty backward pass on CPUs: nothing would be trained below it, and no gradient compared.
// Gives it the one that upstream's yolo layer has: its delta is added to that of the layer before it.
void give_region_a_backward(network& net);

// Random weights of sensible size, the same for the same seed.
void randomize_weights(network& net, Rng& rng);
// Those of convolutions, and of connected layers as they start.
void copy_weights(const network& from, network& to);
// A random image and truth (boxes for detectors, classes otherwise) in net.input and net.truth.
void randomize_batch(network& net, Rng& rng);
void copy_batch(const network& from, network& to);

class WrappedNetwork {
 public:
  // Parses `cfg` and wraps layers [range.begin, range.end). Throws when they cannot be.
  WrappedNetwork(const std::string& cfg, distributed::LayerRange range);

  network& net() { return *net_; }
  const graph::Graph& graph() const { return graph_; }
  exec::Interpreter& interpreter() { return *interpreter_; }

  // Call after the weights are set; again after they were changed by hand.
  void start(std::vector<std::unique_ptr<transport::Endpoint>> endpoints, const exec::InterpreterOptions& options);
  [[nodiscard]] base::Status load(const plan::Plan& plan, program::Mode mode);

  // As forward_network and backward_network, but for the range. Train or test as loaded.
  [[nodiscard]] base::Status forward();
  [[nodiscard]] base::Status backward(bool last);
  // As update_network, after the gradients have been reduced.
  [[nodiscard]] base::Status update();

 private:
  bool in_range(int layer) const { return layer >= range_.begin && layer < range_.end; }

  StockNetwork net_;
  const distributed::LayerRange range_;
  graph::Graph graph_;
  exec::Parameters parameters_;
  std::unique_ptr<exec::Interpreter> interpreter_;
  program::Mode mode_ = program::Mode::kTrain;
};

// |a - b| / max(|b|, floor), Euclidean norms; NaN when either holds one.
double relative_error(const float* a, const float* b, std::size_t count, double floor = 0);
double norm(const float* a, std::size_t count);

}  // namespace tessera::testing
