#include "tests/equivalence/twins.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "tests/equivalence/shadows.hpp"
#include "tests/support/random_graph.hpp"
#include "tests/support/transport_mesh.hpp"

namespace tessera::testing {

namespace {

constexpr double kOutputTolerance = 1e-5, kGradientTolerance = 1e-4;
constexpr int kPerturbations = 16;

std::size_t size(int n) { return static_cast<std::size_t>(n); }

void compare_norms(const layer& a, const layer& b, int index, Differences& differences) {
  if (!b.batch_normalize) return;
  differences[fmt::format("rolling mean of layer {}", index)] = {relative_error(a.rolling_mean, b.rolling_mean, size(b.n)),
                                                                 kOutputTolerance};
  differences[fmt::format("rolling variance of layer {}", index)] = {relative_error(a.rolling_variance, b.rolling_variance, size(b.n)),
                                                                     kOutputTolerance};
}

// Gradients on top of what is left of those before.
void compare_gradients(const layer& a, const layer& b, int index, Differences& differences) {
  const auto compare = [&](const char* what, const float* ours, const float* stock, int count) {
    differences[fmt::format("{} gradient of layer {}", what, index)] = {relative_error(ours, stock, size(count)), kGradientTolerance};
  };
  compare("weight", a.weight_updates, b.weight_updates, b.nweights);
  compare("bias", a.bias_updates, b.bias_updates, b.n);
  if (b.batch_normalize) compare("scale", a.scale_updates, b.scale_updates, b.n);
}

void compare_output(const layer& a, const layer& b, int index, Differences& differences) {
  differences[fmt::format("output of layer {}", index)] = {relative_error(a.output, b.output, size(b.outputs * b.batch)), kOutputTolerance};
}

void compare_delta(const layer& a, const layer& b, int index, Differences& differences) {
  differences[fmt::format("delta of layer {}", index)] = {relative_error(a.delta, b.delta, size(b.outputs * b.batch)), kGradientTolerance};
}

void check(const base::Status& status) {
  if (!status) throw std::runtime_error(status.error().message);
}

}  // namespace

TwinCase random_twin_case(std::uint64_t seed, Family family, const NetworkOptions& options, bool any_range) {
  Rng rng(seed);
  TwinCase c;
  c.seed = seed;
  c.family = family;
  c.options = options;
  c.cfg = random_network(rng, family, options);
  Quiet quiet;
  const StockNetwork net = parse_stock_network(c.cfg);
  const int begin = any_range && rng.chance(0.5) ? rng.between(0, net->n / 2) : 0;
  auto range = distributed::wrappable_range(*net, begin);
  if (!range) range = distributed::wrappable_range(*net, 0);
  if (!range) throw std::runtime_error(range.error().message);
  c.range = *range;
  if (any_range && rng.chance(0.3)) c.range.end = rng.between(c.range.begin + 1, c.range.end);
  auto graph = distributed::network_graph(*net, c.range);
  if (!graph) throw std::runtime_error(graph.error().message);
  c.graph = std::move(*graph);
  if (rng.chance(0.1)) {
    c.plan = random_free_plan(rng, c.graph, options.batch);
  } else {
    auto plan = plan::make_plan(c.graph, options.batch, random_layout(rng, c.graph, options.batch));
    if (!plan) throw std::runtime_error(plan.error().message);
    c.plan = std::move(*plan);
  }
  c.plan.single_pass = options.subdivisions == 1;
  c.backend = rng.pick(kernels::built_backends());
  c.threads = rng.between(1, 2);
  return c;
}

std::string describe(const TwinCase& c) {
  return fmt::format("seed {}, {}, layers {} to {} wrapped, {} participants, batch {}, backend {}, {} threads\n{}{}{}\n", c.seed,
                     to_string(c.family), c.range.begin, c.range.end - 1, c.plan.participants, c.plan.batch, kernels::to_string(c.backend),
                     c.threads, c.cfg, describe(c.graph), describe(c.plan));
}

Twins::Twins(const TwinCase& c) : Twins(c, connected_mesh(Medium::kInproc, c.plan.participants)) {}

Twins::Twins(const TwinCase& c, std::vector<std::unique_ptr<transport::Endpoint>> endpoints) : case_(c) {
  {
    Quiet quiet;
    stock_ = parse_stock_network(c.cfg);
    ours_ = std::make_unique<WrappedNetwork>(c.cfg, c.range);
  }
  give_region_a_backward(*stock_);
  give_region_a_backward(ours_->net());
  Rng rng(c.seed + 1);
  randomize_weights(*stock_, rng);
  copy_weights(*stock_, ours_->net());
  next_batch(rng);
  exec::InterpreterOptions options;
  options.backend = c.backend;
  options.threads = c.threads;
  ours_->start(std::move(endpoints), options);
  load(c.plan, program::Mode::kTrain);
}

void Twins::load(const plan::Plan& plan, program::Mode mode) {
  check(ours_->load(plan, mode));
  mode_ = mode;
}

void Twins::next_batch(Rng& rng) {
  randomize_batch(*stock_, rng);
  copy_batch(*stock_, ours_->net());
}

void Twins::set_batch(int batch) {
  stock_set_batch_network(stock_.get(), batch);
  stock_set_batch_network(&ours_->net(), batch);
}

void Twins::forward() {
  Quiet quiet;
  stock_->train = mode_ == program::Mode::kTrain;
  if (stock_->train) {
    *stock_->seen += size(stock_->batch);
    *ours_->net().seen += size(stock_->batch);
  }
  stock_forward_network(stock_.get());
  check(ours_->forward());
}

void Twins::backward(bool last_subdivision) {
  stock_backward_network(stock_.get());
  check(ours_->backward(last_subdivision));
}

void Twins::update() {
  stock_update_network(stock_.get());
  check(ours_->update());
}

Differences Twins::compare_forward() {
  Differences differences;
  const auto& graph = ours_->graph();
  for (int node = graph.first_layer(); node < graph.size(); ++node) {
    const int index = graph[node].source;
    const layer &a = ours_->net().layers[index], &b = stock_->layers[index];
    if (graph[node].delivered) compare_output(a, b, index, differences);
    compare_norms(a, b, index, differences);
  }
  return differences;
}

void Twins::collect() { check(ours_->interpreter().collect()); }

Differences Twins::compare() {
  collect();
  Differences differences = compare_forward();
  const auto& graph = ours_->graph();
  for (int node = 0; node < graph.size(); ++node) {
    const int index = graph[node].source;
    if (node < graph.first_layer() && graph[node].backward)
      compare_delta(ours_->net().layers[index], stock_->layers[index], index, differences);
    if (graph[node].trainable()) compare_gradients(ours_->net().layers[index], stock_->layers[index], index, differences);
  }
  for (int i = 0; i < stock_->n; ++i) {
    const layer& a = ours_->net().layers[i];
    const bool wrapped = i >= case_.range.begin && i < case_.range.end;
    if (a.type == CONVOLUTIONAL && !wrapped) compare_gradients(a, stock_->layers[i], i, differences);
  }
  return differences;
}

Differences Twins::uncertainty() {
  Quiet quiet;
  Rng rng(case_.seed + 2);
  Differences most;
  for (int i = 0; i < kPerturbations; ++i) {
    const StockNetwork other = parse_stock_network(case_.cfg);
    give_region_a_backward(*other);
    copy_weights(*stock_, *other);
    copy_batch(*stock_, *other);
    *other->seen = *stock_->seen;
    other->train = 1;
    change_last_bits(*other, *stock_, rng);
    stock_forward_network(other.get());
    stock_backward_network(other.get());
    Differences differences;
    for (int k = 0; k < other->n; ++k) {
      const layer &a = other->layers[k], &b = stock_->layers[k];
      compare_output(a, b, k, differences);
      if (b.delta) compare_delta(a, b, k, differences);
      if (b.type == CONVOLUTIONAL) compare_gradients(a, b, k, differences);
    }
    for (const auto& [name, difference] : differences) most[name].error = std::max(most[name].error, difference.error);
  }
  return most;
}

std::string mismatch(Twins& twins, int& uncertain) {
  Differences stock;
  for (const auto& [name, difference] : twins.compare()) {
    if (difference.error <= difference.tolerance) continue;
    if (stock.empty()) stock = twins.uncertainty();
    const double allowed = kRoundingFactor * stock[name].error;
    if (!(difference.error <= allowed))
      return fmt::format("{} differs by {:.3g}, allowed {:.3g} (stock's own uncertainty {:.3g})", name, difference.error,
                         difference.tolerance, stock[name].error);
    ++uncertain;
  }
  return {};
}

}  // namespace tessera::testing
