// A wrapped range of a Darknet network and the session that computes it: on workers, or in this process alone.
#pragma once

#include "cluster/coordinator.hpp"
#include "darknet/upstream/upstream_errors.hpp"
#include "data/batch_loader.hpp"
#include "plugins/distributed/wrapped_layers.hpp"

namespace tessera::distributed {

// Thrown through Darknet's frames when a pass cannot be finished.
struct PassFailed : darknet::UpstreamError {
  explicit PassFailed(base::Error failed) : UpstreamError(failed.message), error(std::move(failed)) {}
  base::Error error;
};

// True for errors after which recover() may succeed: a worker was lost or a message did not arrive.
bool recoverable(const base::Error& error);

// One thread. Parameters are in Darknet's own arrays when the session has no workers, else after collect().
class RangeSession : private WrappedRange {
 public:
  // Opens the session and wraps the range. `graph` is network_graph() of it. The network outlives the session.
  static base::Result<std::unique_ptr<RangeSession>> start(network* net, LayerRange range, graph::Graph graph, Purpose purpose,
                                                           cluster::SessionOptions options);

  // Makes the programs for the network's current size and batch, so that a plan that does not fit is refused early.
  [[nodiscard]] base::Status prepare();

  // To be called before every forward pass in training, with the first of the rows that net->input holds for it.
  void begin_pass(const float* first_row);
  // Between a training pass's forward and its back-propagation: the pictures of the next pass, rows from `row` on, go into
  // net->input and to the workers, where the range begins with the network and nothing is computed here.
  bool may_send_ahead() const { return range_.begin == 0 && coordinator_->may_send_ahead(); }
  void send_ahead(const data::Batch& batch, int row);

  // Waits until the gradients are summed everywhere; the update that follows applies them and cannot fail.
  [[nodiscard]] base::Status settle();
  // Brings trained values into Darknet's arrays.
  [[nodiscard]] base::Status collect() { return coordinator_->collect(); }
  // After an error: back to what was collected last, over the devices that remain.
  [[nodiscard]] base::Status recover();

  LayerRange range() const { return range_; }
  const graph::Graph& graph() const { return graph_; }
  cluster::Coordinator& coordinator() { return *coordinator_; }

 private:
  RangeSession(network* net, LayerRange range, graph::Graph graph, Purpose purpose, std::unique_ptr<cluster::Coordinator> coordinator);

  bool last_pass(const network& net) const;
  void forward(const network& net) override;
  void backward(const network& net) override;
  void update(const update_args& arguments) override;
  base::Status parameters_changed() override;
  void adam(const update_args& arguments);

  base::Status try_forward(const network& net);
  void bind(const network& net);

  network* const net_;
  const LayerRange range_;
  graph::Graph graph_;
  const Purpose purpose_;
  int width_, height_;  // of the input that graph_ is for
  std::unique_ptr<cluster::Coordinator> coordinator_;
  WrappedLayers wrapped_;
  bool settled_ = false;
  const float* sent_ahead_ = nullptr;  // the first row of what is on its way
};

}  // namespace tessera::distributed
