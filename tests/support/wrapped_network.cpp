#include "tests/support/wrapped_network.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <stdexcept>

namespace tessera::testing {

using graph::LayerKind;
using program::Slot;

namespace {

int replace_by_null(int descriptor) {
  const int saved = dup(descriptor);
  const int null = open("/dev/null", O_WRONLY);
  dup2(null, descriptor);
  close(null);
  return saved;
}

void put_back(int saved, int descriptor) {
  dup2(saved, descriptor);
  close(saved);
}

void add_delta(layer l, network net) {
  for (int i = 0; i < l.batch * l.inputs; ++i) net.delta[i] += l.delta[i];
}

std::size_t count(int n) { return static_cast<std::size_t>(n); }

}  // namespace

Quiet::Quiet() {
  std::fflush(stdout);
  std::fflush(stderr);
  out_ = replace_by_null(STDOUT_FILENO);
  err_ = replace_by_null(STDERR_FILENO);
}

Quiet::~Quiet() {
  std::fflush(stdout);
  std::fflush(stderr);
  put_back(out_, STDOUT_FILENO);
  put_back(err_, STDERR_FILENO);
}

void give_region_a_backward(network& net) {
  for (int i = 0; i < net.n; ++i)
    if (net.layers[i].type == REGION) net.layers[i].backward = add_delta;
}

void randomize_weights(network& net, Rng& rng) {
  const auto fill = [&](float* values, int n, float from, float to) {
    for (int i = 0; i < n; ++i) values[i] = rng.uniform(from, to);
  };
  for (int i = 0; i < net.n; ++i) {
    layer& l = net.layers[i];
    if (l.type != CONVOLUTIONAL) continue;
    const float scale = std::sqrt(6.0f / static_cast<float>(l.size * l.size * l.c));
    fill(l.weights, l.nweights, -scale, scale);
    fill(l.biases, l.n, -0.5f, 0.5f);
    if (!l.batch_normalize) continue;
    fill(l.scales, l.n, 0.5f, 1.5f);
    fill(l.rolling_mean, l.n, -0.2f, 0.2f);
    fill(l.rolling_variance, l.n, 0.5f, 1.5f);
  }
}

void copy_weights(const network& from, network& to) {
  for (int i = 0; i < from.n; ++i) {
    const layer &a = from.layers[i], &b = to.layers[i];
    if (a.type == CONNECTED) std::copy_n(a.weights, a.inputs * a.outputs, b.weights);
    if (a.type != CONVOLUTIONAL) continue;
    std::copy_n(a.weights, a.nweights, b.weights);
    std::copy_n(a.biases, a.n, b.biases);
    if (!a.batch_normalize) continue;
    std::copy_n(a.scales, a.n, b.scales);
    std::copy_n(a.rolling_mean, a.n, b.rolling_mean);
    std::copy_n(a.rolling_variance, a.n, b.rolling_variance);
  }
}

void randomize_batch(network& net, Rng& rng) {
  for (int i = 0; i < net.inputs * net.batch; ++i) net.input[i] = rng.uniform(-1, 1);
  std::fill_n(net.truth, net.truths * net.batch, 0.0f);
  const layer& last = net.layers[net.n - 1];
  for (int image = 0; image < net.batch; ++image) {
    float* truth = net.truth + image * net.truths;
    if (last.type == SOFTMAX) {
      truth[rng.below(count(net.truths))] = 1;
      continue;
    }
    for (int box = 0; box < 3; ++box, truth += 5) {
      truth[0] = rng.uniform(0.1f, 0.9f), truth[1] = rng.uniform(0.1f, 0.9f);
      truth[2] = rng.uniform(0.1f, 0.6f), truth[3] = rng.uniform(0.1f, 0.6f);
      truth[4] = static_cast<float>(rng.below(count(last.classes)));
    }
  }
}

void copy_batch(const network& from, network& to) {
  std::copy_n(from.input, from.inputs * from.batch, to.input);
  std::copy_n(from.truth, from.truths * from.batch, to.truth);
}

WrappedNetwork::WrappedNetwork(const std::string& cfg, distributed::LayerRange range) : net_(parse_stock_network(cfg)), range_(range) {
  auto graph = distributed::network_graph(*net_, range);
  if (!graph) throw std::runtime_error(graph.error().message);
  graph_ = std::move(*graph);
  parameters_ = distributed::network_parameters(*net_, graph_);
}

void WrappedNetwork::start(std::vector<std::unique_ptr<transport::Endpoint>> endpoints, const exec::InterpreterOptions& options) {
  interpreter_ = std::make_unique<exec::Interpreter>(graph_, parameters_, std::move(endpoints), options);
}

base::Status WrappedNetwork::load(const plan::Plan& plan, program::Mode mode) {
  TESSERA_TRY(interpreter_->load(graph_, plan, mode));
  mode_ = mode;
  for (int node = 0; node < graph_.size(); ++node) {
    const auto& g = graph_[node];
    if (g.kind == LayerKind::kInput) {
      interpreter_->bind(node, Slot::kStored, g.source < 0 ? net_->input : net_->layers[g.source].output);
      if (g.backward) interpreter_->bind(node, Slot::kInputDelta, net_->layers[g.source].delta);
    } else if (g.delivered) {
      interpreter_->bind(node, Slot::kDelivered, net_->layers[g.source].output);
      interpreter_->bind(node, Slot::kExternalDelta, net_->layers[g.source].delta);
    }
  }
  return {};
}

base::Status WrappedNetwork::forward() {
  network net = *net_;
  net.train = mode_ == program::Mode::kTrain;
  for (int i = 0; i < net.n; ++i) {
    layer l = net.layers[i];
    if (l.delta) std::fill_n(l.delta, l.outputs * l.batch, 0.0f);
    if (in_range(i)) {  // nobody may read what the interpreter did not deliver
      std::fill_n(l.output, l.outputs * l.batch, std::numeric_limits<float>::quiet_NaN());
      if (i + 1 == range_.end) TESSERA_TRY(interpreter_->forward());
    } else {
      net.index = i;
      l.forward(l, net);
    }
    net.input = l.output;
  }
  float sum = 0;
  int costs = 0;
  for (int i = 0; i < net.n; ++i)
    if (net.layers[i].cost) sum += net.layers[i].cost[0], ++costs;
  *net_->cost = sum / static_cast<float>(costs);
  return {};
}

base::Status WrappedNetwork::backward(bool last) {
  const network start = *net_;
  for (int i = start.n - 1; i >= 0; --i) {
    layer l = start.layers[i];
    if (i + 1 == range_.end) TESSERA_TRY(interpreter_->backward(last));
    if (l.stopbackward) break;
    if (in_range(i)) continue;
    network net = start;
    net.train = 1;
    net.index = i;
    if (i > 0) net.input = start.layers[i - 1].output, net.delta = start.layers[i - 1].delta;
    l.backward(l, net);
  }
  return {};
}

base::Status WrappedNetwork::update() {
  update_args args{};
  args.batch = net_->batch * net_->subdivisions;
  args.learning_rate = stock_get_current_rate(net_.get());
  args.momentum = net_->momentum;
  args.decay = net_->decay;
  for (int i = 0; i < net_->n; ++i)
    if (!in_range(i) && net_->layers[i].update) net_->layers[i].update(net_->layers[i], args);
  return interpreter_->apply({args.learning_rate, args.momentum, args.decay, args.batch});
}

double norm(const float* a, std::size_t n) {
  double sum = 0;
  for (std::size_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * a[i];
  return std::sqrt(sum);
}

double relative_error(const float* a, const float* b, std::size_t n, double floor) {
  double sum = 0;
  for (std::size_t i = 0; i < n; ++i) sum += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
  const double scale = std::max(norm(b, n), floor);
  return sum == 0 ? 0 : std::sqrt(sum) / scale;
}

}  // namespace tessera::testing
