#include "plugins/distributed/range_session.hpp"

#include <algorithm>

#include "darknet/upstream/adam.hpp"

namespace tessera::distributed {

using base::ErrorCode;
using base::Result;
using base::Status;

namespace {

void require(Status status) {
  if (!status) throw PassFailed(std::move(status).error());
}

std::vector<bool> delivered(const graph::Graph& graph) {
  std::vector<bool> result;
  for (int node = graph.first_layer(); node < graph.size(); ++node) result.push_back(graph[node].delivered);
  return result;
}

}  // namespace

bool recoverable(const base::Error& error) {
  return error.code == ErrorCode::kPeerLost || error.code == ErrorCode::kTimeout || error.code == ErrorCode::kAborted ||
         error.code == ErrorCode::kProtocol;
}

Result<std::unique_ptr<RangeSession>> RangeSession::start(network* net, LayerRange range, graph::Graph graph, Purpose purpose,
                                                          cluster::SessionOptions options) {
  options.inference = purpose == Purpose::kInference;
  TESSERA_ASSIGN(auto coordinator, cluster::Coordinator::start(graph, network_parameters(*net, graph), std::move(options)));
  return std::unique_ptr<RangeSession>(new RangeSession(net, range, std::move(graph), purpose, std::move(coordinator)));
}

RangeSession::RangeSession(network* net, LayerRange range, graph::Graph graph, Purpose purpose,
                           std::unique_ptr<cluster::Coordinator> coordinator)
    : net_(net),
      range_(range),
      graph_(std::move(graph)),
      purpose_(purpose),
      width_(net->w),
      height_(net->h),
      coordinator_(std::move(coordinator)),
      wrapped_(net, range, delivered(graph_), purpose, *this) {}

Status RangeSession::prepare() {
  return coordinator_->select(graph_, net_->batch, purpose_ == Purpose::kTraining ? program::Mode::kTrain : program::Mode::kTest);
}

void RangeSession::forward(const network& net) {
  if (net.w != width_ || net.h != height_) {
    auto graph = network_graph(*net_, range_);
    if (!graph) throw PassFailed(graph.error());
    graph_ = std::move(*graph);
    width_ = net.w, height_ = net.h;
    wrapped_.release_buffers();
  }
  // Testing in the middle of training goes on with those who remain, as training does.
  for (int attempts = net.train ? 0 : coordinator_->workers_left() + 1;; --attempts) {
    const Status done = try_forward(net);
    if (done) return;
    if (attempts == 0 || !recoverable(done.error())) throw PassFailed(done.error());
    require(coordinator_->recover());
  }
}

Status RangeSession::try_forward(const network& net) {
  TESSERA_TRY(coordinator_->select(graph_, net.batch, net.train ? program::Mode::kTrain : program::Mode::kTest));
  bind(net);
  return coordinator_->forward();
}

void RangeSession::begin_pass(const float* first_row) {
  if (sent_ahead_ != first_row) coordinator_->ignore_sent_inputs();
  sent_ahead_ = nullptr;
}

void RangeSession::send_ahead(const data::Batch& batch, int row) {
  if (batch.shape.width != net_->w || batch.shape.height != net_->h || row + net_->batch > batch.shape.rows) return;
  for (int i = 0; i < net_->batch; ++i)
    std::copy_n(batch.inputs[static_cast<std::size_t>(row) + static_cast<std::size_t>(i)], net_->inputs,
                net_->input + static_cast<std::ptrdiff_t>(i) * net_->inputs);
  require(coordinator_->send_next_inputs(last_pass(*net_)));
  sent_ahead_ = batch.inputs[static_cast<std::size_t>(row)];
}

bool RangeSession::last_pass(const network& net) const {
  return (*net.seen / static_cast<std::size_t>(net.batch)) % static_cast<std::size_t>(net.subdivisions) == 0;
}

void RangeSession::backward(const network& net) { require(coordinator_->backward(last_pass(net))); }

Status RangeSession::settle() {
  TESSERA_TRY(coordinator_->settle());
  settled_ = true;
  return {};
}

Status RangeSession::recover() {
  settled_ = false;
  sent_ahead_ = nullptr;
  return coordinator_->recover();
}

void RangeSession::update(const update_args& arguments) {
  // Callers other than an engine come here without having waited for the sums.
  if (!settled_) require(coordinator_->settle());
  settled_ = false;
  if (arguments.adam) return adam(arguments);
  coordinator_->commit({arguments.learning_rate, arguments.momentum, arguments.decay, arguments.batch});
}

// A step of rate 0 and momentum 1 only leaves the gradient in Darknet's *_updates. Workers would have to do the same with
// what they keep of the momentum: adam=1 is refused with workers.
void RangeSession::adam(const update_args& arguments) {
  coordinator_->commit({0, 1, 0, arguments.batch});
  for (int i = range_.begin; i < range_.end; ++i) darknet::adam_step(net_->layers[i], arguments);
  coordinator_->parameters_changed();
}

Status RangeSession::parameters_changed() {
  coordinator_->parameters_changed();
  return {};
}

void RangeSession::bind(const network& net) {
  using program::Slot;
  for (int node = 0; node < graph_.size(); ++node) {
    const int source = graph_[node].source;
    if (graph_[node].kind == graph::LayerKind::kInput) {
      coordinator_->bind(node, Slot::kStored, source < 0 ? net_->input : net.layers[source].output);
      if (graph_[node].backward) coordinator_->bind(node, Slot::kInputDelta, net.layers[source].delta);
    } else if (graph_[node].delivered) {
      coordinator_->bind(node, Slot::kDelivered, net.layers[source].output);
      coordinator_->bind(node, Slot::kExternalDelta, net.layers[source].delta);
    }
  }
}

}  // namespace tessera::distributed
