#include "plugins/distributed/distributed_engine.hpp"

#include <cstdio>
#include <thread>

#include "cluster/coordinator.hpp"
#include "cluster/local_workers.hpp"
#include "plugins/distributed/network_graph.hpp"
#include "plugins/distributed/settings.hpp"
#include "plugins/distributed/unwrapped_state.hpp"
#include "plugins/distributed/wrapped_layers.hpp"

namespace tessera::distributed {

using base::ErrorCode;
using base::Result;
using base::Status;

namespace {

// Thrown through Darknet's frames when a pass cannot be finished; caught in train_batch().
struct PassFailed {
  base::Error error;
};

void require(Status status) {
  if (!status) throw PassFailed{std::move(status).error()};
}

void say(const std::string& line) {
  fmt::print(stderr, "{}\n", line);
  std::fflush(stderr);
}

bool recoverable(const base::Error& error) {
  return error.code == ErrorCode::kPeerLost || error.code == ErrorCode::kTimeout || error.code == ErrorCode::kAborted || error.code == ErrorCode::kProtocol;
}

class DistributedEngine : public darknet::Engine, private WrappedRange {
 public:
  DistributedEngine(network* net, LayerRange range, graph::Graph graph, std::unique_ptr<cluster::LocalWorkers> local,
                    std::unique_ptr<cluster::Coordinator> coordinator)
      : net_(net), range_(range), graph_(std::move(graph)), width_(net->w), height_(net->h), local_(std::move(local)),
        coordinator_(std::move(coordinator)) {
    std::vector<bool> delivered;
    for (int node = graph_.first_layer(); node < graph_.size(); ++node) delivered.push_back(graph_[node].delivered);
    WrappedRange& self = *this;
    wrapped_ = std::make_unique<WrappedLayers>(net, range, std::move(delivered), self);
  }

  // The programs of a training batch, so that a plan that does not fit is refused before training starts.
  Status prepare() {
    TESSERA_TRY(coordinator_->select(graph_, net_->batch, program::Mode::kTrain));
    return {};
  }

  Result<float> train_batch(network* net, const data& batch) override {
    const UnwrappedState before(*net, range_);
    // Each loss of a worker costs one attempt, a connection in trouble maybe one more.
    for (int attempts = 3 * (coordinator_->workers_left() + 1);; --attempts) {
      try {
        return run_batch(net, batch);
      } catch (PassFailed& failed) {
        if (!recoverable(failed.error) || attempts == 0) return tl::unexpected(failed.error);
        before.restore(net);
        TESSERA_TRY(coordinator_->recover());
      }
    }
  }

  std::vector<observe::DeviceReport> device_reports() override { return coordinator_->reports(); }

  Status detach(network*) override {
    wrapped_.reset();
    coordinator_.reset();
    local_.reset();
    return {};
  }

  const plan::Plan& plan() const { return coordinator_->plan(); }
  const cluster::LocalWorkers* local_workers() const { return local_.get(); }

 private:
  // As Darknet's train_network(), with the point in between at which nothing can fail any more.
  float run_batch(network* net, const data& batch) {
    float sum = 0;
    const int passes = batch.X.rows / net->batch;
    for (int i = 0; i < passes; ++i) {
      get_next_batch(batch, net->batch, i * net->batch, net->input, net->truth);
      *net->seen += static_cast<std::size_t>(net->batch);
      net->train = 1;
      forward_network(net);
      backward_network(net);
      sum += *net->cost;
      if ((*net->seen / static_cast<std::size_t>(net->batch)) % static_cast<std::size_t>(net->subdivisions) == 0) {
        require(coordinator_->settle());
        settled_ = true;
        update_network(net);
      }
    }
    return sum / static_cast<float>(passes * net->batch);
  }

  void forward(const network& net) override {
    if (net.w != width_ || net.h != height_) {
      auto graph = network_graph(*net_, range_);
      if (!graph) throw PassFailed{graph.error()};
      graph_ = std::move(*graph);
      width_ = net.w, height_ = net.h;
      wrapped_->release_buffers();
    }
    // Testing in the middle of training goes on with those who remain, as training does.
    for (int attempts = net.train ? 0 : coordinator_->workers_left() + 1;; --attempts) {
      const Status done = try_forward(net);
      if (done) return;
      if (attempts == 0 || !recoverable(done.error())) throw PassFailed{done.error()};
      require(coordinator_->recover());
    }
  }

  Status try_forward(const network& net) {
    TESSERA_TRY(coordinator_->select(graph_, net.batch, net.train ? program::Mode::kTrain : program::Mode::kTest));
    bind(net);
    return coordinator_->forward();
  }

  void backward(const network& net) override {
    const bool last = (*net.seen / static_cast<std::size_t>(net.batch)) % static_cast<std::size_t>(net.subdivisions) == 0;
    require(coordinator_->backward(last));
  }

  void update(const update_args& arguments) override {
    // Callers other than train_batch() come here without having waited for the sums.
    if (!settled_) require(coordinator_->settle());
    settled_ = false;
    coordinator_->commit({arguments.learning_rate, arguments.momentum, arguments.decay, arguments.batch});
  }

  Status parameters_changed() override { return coordinator_->share_parameters(); }

  void bind(const network& net) {
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

  network* const net_;
  const LayerRange range_;
  graph::Graph graph_;
  int width_, height_;
  std::unique_ptr<cluster::LocalWorkers> local_;
  std::unique_ptr<cluster::Coordinator> coordinator_;
  std::unique_ptr<WrappedLayers> wrapped_;
  bool settled_ = false;
};

int cores() { return std::max(1, static_cast<int>(std::thread::hardware_concurrency())); }

std::string layer_list(const std::vector<int>& nodes, const graph::Graph& graph) {
  std::string text;
  for (int node : nodes) text += fmt::format("{}{}", text.empty() ? "" : ",", graph[node].source);
  return text;
}

void announce(const DistributedEngine& engine, const graph::Graph& graph, LayerRange range, std::size_t workers) {
  const auto& plan = engine.plan();
  say(fmt::format("distributed: layers {} to {} on {}; forward groups start at {}; backward groups end at {}", range.begin, range.end - 1,
                  workers == 0 ? "this machine alone" : fmt::format("{} worker{}", workers, workers == 1 ? "" : "s"), layer_list(plan.forward_starts, graph),
                  layer_list(plan.backward_ends, graph)));
  if (plan.recompute) say("distributed: tensors inside forward groups are computed again in back-propagation (recompute)");
  if (const auto* local = engine.local_workers())
    for (std::size_t i = 0; i < local->pids().size(); ++i) say(fmt::format("distributed: worker {} is process {}", local->specs()[i].name, local->pids()[i]));
}

}  // namespace

Result<std::unique_ptr<darknet::Engine>> attach_distributed(network* net, const darknet::DistributedSection& section, const darknet::EngineOptions& options) {
  TESSERA_ASSIGN(const Settings settings, read_settings(section));
  auto range = wrappable_range(*net, section.first_layer);
  if (!range) return base::error(range.error().code, "{}:{}: {}", section.file, section.line, range.error().message);
  if (settings.layers > 0) range->end = range->begin + settings.layers;
  auto graph = network_graph(*net, *range);
  if (!graph) return base::error(graph.error().code, "{}:{}: {}", section.file, section.line, graph.error().message);
  for (const auto& note : network_notes(*net, *range)) say("note: " + note);

  cluster::SessionOptions session;
  TESSERA_ASSIGN(session.layout, layout_request(settings, *graph));
  session.backend = settings.backend;
  session.memory_mb = settings.memory_mb;
  session.subdivisions = net->subdivisions;
  session.insecure = options.insecure;
  session.say = say;
    std::unique_ptr<cluster::LocalWorkers> local;
  if (settings.local_workers > 0) {
    const int threads = settings.threads > 0 ? settings.threads : std::max(1, cores() / settings.local_workers);
    TESSERA_ASSIGN(auto started, cluster::LocalWorkers::start(options.program, settings.local_workers, threads));
    local = std::make_unique<cluster::LocalWorkers>(std::move(started));
    session.workers = local->specs();
    session.socket_directory = local->directory();
  } else if (!settings.cluster_file.empty()) {
    TESSERA_ASSIGN(session.workers, cluster::read_cluster_file(settings.cluster_file));
    for (auto& worker : session.workers)
      if (worker.threads == 0) worker.threads = settings.threads;
  }
  session.threads = settings.threads > 0 ? settings.threads : cores();
  const std::size_t workers = session.workers.size();
  TESSERA_ASSIGN(auto coordinator, cluster::Coordinator::start(*graph, network_parameters(*net, *graph), std::move(session)));
  auto engine = std::make_unique<DistributedEngine>(net, *range, *graph, std::move(local), std::move(coordinator));
  if (auto prepared = engine->prepare(); !prepared) return base::error(prepared.error().code, "{}:{}: {}", section.file, section.line, prepared.error().message);
  announce(*engine, *graph, *range, workers);
  return engine;
}

}  // namespace tessera::distributed
