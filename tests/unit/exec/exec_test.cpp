// What surrounds the programs of one device: parameters and their homes, gradients, and iterations that are given up.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>

#include "exec/interpreter.hpp"
#include "program/compile.hpp"
#include "tests/support/random_graph.hpp"
#include "tests/support/seed.hpp"
#include "tests/support/transport_mesh.hpp"

using namespace tessera;
using program::Slot;
using testing::Rng;

namespace {

// conv 3x3 with batch norm, conv 3x3 without, on an input whose delta is wanted.
graph::Graph two_convolutions() {
  graph::Graph graph;
  graph.layers.resize(3);
  for (int node = 0; node < 3; ++node) {
    auto& l = graph.layers[static_cast<std::size_t>(node)];
    l.source = node;
    l.out = {node == 0 ? 2 : 3, 6, 6};
    if (node == 0) continue;
    l.kind = graph::LayerKind::kConvolutional;
    l.inputs = {node - 1};
    l.kernel = 3, l.pad = 1;
    l.activation = "leaky";
    l.batch_normalize = node == 1;
  }
  graph.layers.back().delivered = true;
  return graph;
}

void fill(std::span<float> values, Rng& rng) {
  for (float& value : values) value = rng.uniform(-1, 1);
}

// One convolution (kernel x kernel, no batch norm, linear) on an input whose delta nobody wants.
graph::Graph graph_of(geometry::Shape input, int filters, int kernel) {
  graph::Graph graph;
  graph.layers.resize(2);
  graph.layers[0].out = input;
  graph.layers[0].source = -1;
  graph.layers[0].backward = false;
  auto& l = graph.layers[1];
  l.kind = graph::LayerKind::kConvolutional;
  l.out = {filters, input.y, input.x};
  l.inputs = {0};
  l.kernel = kernel, l.pad = kernel / 2;
  l.activation = "linear";
  l.delivered = true;
  return graph;
}

void fill(const exec::Parameters& parameters, Rng& rng) {
  for (const auto& layer : parameters.layers) {
    for (const auto& array : {layer.weights, layer.biases, layer.scales, layer.rolling_mean, layer.rolling_variance}) fill(array, rng);
    for (float& v : layer.rolling_variance) v = 1 + v * v;
  }
}

// All values, momentum included.
std::vector<float> values_of(const exec::Parameters& parameters) {
  std::vector<float> values;
  for (const auto& layer : parameters.layers)
    exec::for_each_array(layer, [&](std::span<float> array) { values.insert(values.end(), array.begin(), array.end()); });
  return values;
}

void set_values(const exec::Parameters& parameters, const std::vector<float>& values) {
  auto next = values.begin();
  for (const auto& layer : parameters.layers)
    exec::for_each_array(layer, [&](std::span<float> array) {
      std::copy_n(next, array.size(), array.begin());
      next += static_cast<std::ptrdiff_t>(array.size());
    });
}

// Not finite where both must be (the variance of one value is 0 / 0, as in Darknet) is no error.
double relative_error(const std::vector<float>& got, const std::vector<float>& want) {
  REQUIRE(got.size() == want.size());
  double difference = 0, size = 1e-12;
  for (std::size_t i = 0; i < want.size(); ++i) {
    if (!std::isfinite(want[i]) && !std::isfinite(got[i])) continue;
    difference += std::pow(static_cast<double>(got[i]) - want[i], 2);
    size += std::pow(static_cast<double>(want[i]), 2);
  }
  return std::sqrt(difference / size);
}

// A plan on an interpreter over in-process endpoints with everything bound. The same seed gives the same values.
struct Run {
  Run(const graph::Graph& graph, const plan::Plan& plan, std::uint64_t seed)
      : graph(graph), host(plan.host), storage(graph), memory(graph.layers.size() * 2) {
    Rng rng(seed);
    fill(storage.parameters(), rng);
    for (int node = 0; node < graph.size(); ++node)
      for (std::size_t which : {0, 1}) {
        auto& m = memory[static_cast<std::size_t>(node) * 2 + which];
        m.resize(static_cast<std::size_t>(plan.batch * graph[node].out.elements()));
        fill(m, rng);
      }
    interpreter = std::make_unique<exec::Interpreter>(
        graph, storage.parameters(), testing::connected_mesh(testing::Medium::kInproc, plan.participants),
        exec::InterpreterOptions{kernels::Backend::kReference, 1, base::Milliseconds(20000)}, host);
    load(plan);
  }

  void load(const plan::Plan& plan) {
    const auto status = interpreter->load(graph, plan, program::Mode::kTrain);
    REQUIRE_MESSAGE(status, status.error().message);
    made.clear();
    for (int node = 0; node < graph.size(); ++node) {
      const auto bind = [&](Slot slot, std::size_t which) {
        interpreter->bind(node, slot, memory[static_cast<std::size_t>(node) * 2 + which].data());
      };
      if (graph[node].kind == graph::LayerKind::kInput)
        bind(Slot::kInputDelta, 1), make_input(node, plan);
      else if (graph[node].delivered)
        bind(Slot::kDelivered, 0), bind(Slot::kExternalDelta, 1);
    }
  }

  // Each maker's part of an input.
  void make_input(int node, const plan::Plan& plan) {
    const geometry::FloatView all{memory[static_cast<std::size_t>(node) * 2].data(), geometry::Box::whole(plan.batch, graph[node].out)};
    for (int p = 0; p < plan.participants; ++p) {
      const geometry::Box& box = plan.source(node, p);
      if (box.empty()) continue;
      auto& part = made.emplace_back(static_cast<std::size_t>(box.elements()));
      const geometry::FloatView view{part.data(), box};
      for (auto n = box.n.begin; n < box.n.end; ++n)
        for (auto c = box.c.begin; c < box.c.end; ++c)
          for (auto y = box.y.begin; y < box.y.end; ++y)
            for (auto x = box.x.begin; x < box.x.end; ++x) view.at(n, c, y, x) = all.at(n, c, y, x);
      interpreter->executor(p).bind(node, Slot::kStored, part.data());
    }
  }

  void pass(bool last) {
    check(interpreter->forward());
    check(interpreter->backward(last));
  }
  void apply() { check(interpreter->apply({0.05f, 0.9f, 0.0005f, 2})); }
  void iterate() { pass(true), apply(); }
  // As the host has them.
  std::vector<float> collected() {
    check(interpreter->collect());
    return values_of(storage.parameters());
  }
  std::vector<float> gradients() {
    check(interpreter->collect());
    std::vector<float> values;
    for (const auto& layer : storage.parameters().layers)
      for (const auto& array : {layer.weight_updates, layer.bias_updates, layer.scale_updates})
        values.insert(values.end(), array.begin(), array.end());
    return values;
  }
  static void check(const base::Status& status) { REQUIRE_MESSAGE(status, status.error().message); }

  graph::Graph graph;
  int host;
  exec::ParameterStorage storage;
  std::vector<std::vector<float>> memory;  // by node: a tensor and a delta
  std::vector<std::vector<float>> made;    // parts of inputs
  std::unique_ptr<exec::Interpreter> interpreter;
};

// Host 0 owns nothing.
plan::Plan two_rows(const graph::Graph& graph) {
  return *plan::make_plan(graph, 2, testing::one_cut(graph, {{1}, {1}, {1, 2}, {1}}, {1, 2}, 3));
}

plan::Plan alone(const graph::Graph& graph, geometry::Index batch) {
  return *plan::make_plan(graph, batch, testing::one_cut(graph, {}, {0}, 1));
}

}  // namespace

TEST_CASE("summing gradients and sharing weights moves at most 2(N-1)/N of them per participant") {
  const auto graph = graph_of({256, 4, 8}, 256, 3);
  const auto plan = *plan::make_plan(graph, 1, testing::one_cut(graph, {{1}, {1}, {1, 1, 1, 1}, {1}}, {0, 1, 2, 3}, 4));
  Run run(graph, plan, testing::seed());
  const auto bytes = [&](int p) { return run.interpreter->usage(p).sent_bytes; };
  std::vector<std::uint64_t> plain, summing, sharing;
  REQUIRE(run.interpreter->forward());
  for (auto* usage : {&plain, &summing, &sharing}) {
    std::vector<std::uint64_t> before;
    for (int p = 0; p < 4; ++p) before.push_back(bytes(p));
    if (usage == &sharing)
      run.apply();
    else
      REQUIRE(run.interpreter->backward(usage == &summing));
    for (int p = 0; p < 4; ++p) usage->push_back(bytes(p) - before[static_cast<std::size_t>(p)]);
  }
  const auto gradient = static_cast<std::uint64_t>(graph.weights(1)) * sizeof(float);
  for (std::size_t p = 0; p < 4; ++p) {
    CAPTURE(p);
    const std::uint64_t moved = summing[p] - plain[p] + sharing[p];
    CHECK(moved <= 2 * 3 * gradient / 4 + 8192);  // headers and biases
    CHECK(moved >= 2 * 3 * gradient / 4);
  }
}

TEST_CASE("weights and momentum at their homes become one device's, and survive a change of homes and members") {
  const auto graph = two_convolutions();
  Run apart(graph, two_rows(graph), testing::seed()), one(graph, alone(graph, 2), testing::seed());
  const auto by_channels = *plan::make_plan(graph, 2, testing::one_cut(graph, {{1}, {1, 1, 1}, {1}, {1}}, {2, 0, 1}, 3));
  auto free_homes = two_rows(graph);  // the last worker has the first layer's, the host the second's
  for (const int node : {1, 2}) {
    auto& homes = free_homes.weights[static_cast<std::size_t>(node)];
    const geometry::Box all = geometry::hull(geometry::hull(homes[0], homes[1]), homes[2]);
    homes = node == 1 ? std::vector<geometry::Box>{{}, {}, all} : std::vector<geometry::Box>{all, {}, {}};
  }
  free_homes.statistics[1] = 1;
  for (int i = 0; i < 6; ++i) {
    if (i == 2) apart.load(by_channels);
    if (i == 4) apart.load(free_homes);
    apart.iterate(), one.iterate();
    const auto got = apart.collected(), want = one.collected();
    CHECK(relative_error(got, want) < 1e-5);
    CHECK(relative_error(apart.gradients(), one.gradients()) < 1e-4);
  }
  const auto& home = apart.interpreter->executor(2).parameters().layers[1];
  CHECK(home.home == geometry::Range{0, 3});
  const auto& host = apart.storage.parameters().layers[1];
  CHECK(std::ranges::equal(home.weight_updates, host.weight_updates));
  CHECK(std::ranges::equal(home.weights, host.weights));
  CHECK(apart.interpreter->executor(1).parameters().layers[1].home.empty());
}

TEST_CASE("random plans, whoever is the host, makes inputs and has weights, give what one device computes") {
  constexpr int kCases = 60;
  double weights = 0, outputs = 0;
  int finite = 0;
  for (int i = 0; i < kCases; ++i) {
    const std::uint64_t seed = testing::seed() + static_cast<std::uint64_t>(i);
    Rng rng(seed);
    auto graph = testing::random_graph(rng, 6);
    for (auto& layer : graph.layers)  // kinks and saturation make large differences of small ones
      if (layer.activation != "linear") layer.activation = "tanh";
    const geometry::Index batch = rng.between(1, 3);
    const auto plan = testing::random_free_plan(rng, graph, batch, true);
    INFO(fmt::format("seed {}{}{}", seed, testing::describe(graph), testing::describe(plan)));
    Run apart(graph, plan, seed), one(graph, alone(graph, batch), seed);
    for (Run* run : {&apart, &one}) {
      if (!plan.single_pass) run->pass(false);
      run->iterate();
      if (plan.single_pass) run->iterate();
    }
    const double error = relative_error(apart.collected(), one.collected());
    finite += std::ranges::all_of(values_of(one.storage.parameters()), [](float value) { return std::isfinite(value); });
    CHECK(error < 1e-3);
    weights = std::max(weights, error);
    for (std::size_t m = 0; m < one.memory.size(); ++m) {
      const double wrong = relative_error(apart.memory[m], one.memory[m]);
      CHECK(wrong < 1e-3);
      outputs = std::max(outputs, wrong);
    }
  }
  CHECK(finite > kCases / 2);
  fmt::print("{} random plans: largest relative error of parameters {:.1e}, of outputs and input deltas {:.1e}\n", kCases, weights,
             outputs);
}

TEST_CASE("a mailbox takes the piece it waits for, whatever comes first, and drops old runs and strangers' sessions") {
  auto mesh = testing::connected_mesh(testing::Medium::kInproc, 2);
  exec::Mailbox sender(*mesh[1], 7, base::Milliseconds(5000)), stranger(*mesh[1], 8, base::Milliseconds(5000)),
      receiver(*mesh[0], 7, base::Milliseconds(200));
  const auto piece = [](std::uint32_t transfer, geometry::Index size) {
    return exec::Piece{transfer, wire::ElementType::kFloat32, {{0, 1}, {0, 1}, {0, 1}, {0, size}}};
  };
  const auto send = [&](exec::Mailbox& from, std::uint64_t run, std::uint32_t transfer, float value) {
    from.start_run(run);
    auto frame = from.allocate(sizeof value);
    std::memcpy(frame.data(), &value, sizeof value);
    REQUIRE(from.send(0, transport::Lane::kBulk, piece(transfer, 1), std::move(frame)));
  };
  const auto receive = [&](std::uint32_t transfer) {
    auto frame = receiver.receive(1, piece(transfer, 1));
    REQUIRE_MESSAGE(frame, frame.error().message);
    float value;
    std::memcpy(&value, frame->data(), sizeof value);
    return value;
  };
  receiver.start_run(2);
  send(sender, 1, 5, 1.0f);    // of a run that has been given up
  send(stranger, 2, 5, 2.0f);  // of another session
  send(sender, 2, 6, 3.0f);
  send(sender, 3, 5, 4.0f);  // of the next run already
  send(sender, 2, 5, 5.0f);
  CHECK(receive(5) == 5.0f);
  CHECK(receive(6) == 3.0f);
  receiver.start_run(3);
  CHECK(receive(5) == 4.0f);
  const auto nothing = receiver.receive(1, piece(9, 1));
  REQUIRE(!nothing);
  CHECK(nothing.error().code == base::ErrorCode::kTimeout);
  send(sender, 3, 9, 1.0f);
  const auto other = receiver.receive(1, piece(9, 2));
  REQUIRE(!other);
  CHECK(other.error().code == base::ErrorCode::kProtocol);
  receiver.abort();
  const auto aborted = receiver.receive(1, piece(10, 1));
  REQUIRE(!aborted);
  CHECK(aborted.error().code == base::ErrorCode::kAborted);
  receiver.resume();
  send(sender, 3, 10, 6.0f);
  CHECK(receive(10) == 6.0f);
}

TEST_CASE("a lost peer ends the wait for it at once") {
  auto mesh = testing::connected_mesh(testing::Medium::kInproc, 2);
  exec::Mailbox receiver(*mesh[0], 7, base::Milliseconds(20000));
  receiver.start_run(1);
  mesh[1]->close();
  const auto start = base::Clock::now();
  const auto lost = receiver.receive(1, {1, wire::ElementType::kFloat32, {{0, 1}, {0, 1}, {0, 1}, {0, 1}}});
  REQUIRE(!lost);
  CHECK(lost.error().code == base::ErrorCode::kPeerLost);
  CHECK(base::seconds_between(start, base::Clock::now()) < 5);
}

TEST_CASE("a mailbox keeps messages of a run that is held until they are asked for, and drops them when it is released") {
  auto mesh = testing::connected_mesh(testing::Medium::kInproc, 2);
  exec::Mailbox sender(*mesh[1], 7, base::Milliseconds(5000)), receiver(*mesh[0], 7, base::Milliseconds(200));
  const auto piece = [](std::uint32_t transfer) {
    return exec::Piece{transfer, wire::ElementType::kFloat32, {{0, 1}, {0, 1}, {0, 1}, {0, 1}}};
  };
  const auto send = [&](std::uint64_t run, std::uint32_t transfer, float value, std::uint64_t ahead = 0) {
    sender.start_run(run);
    auto frame = sender.allocate(sizeof value);
    std::memcpy(frame.data(), &value, sizeof value);
    REQUIRE(sender.send(0, transport::Lane::kBulk, piece(transfer), std::move(frame), ahead));
  };
  const auto receive = [&](std::uint32_t transfer, std::optional<std::uint64_t> run = {}) -> std::optional<float> {
    const auto frame = receiver.receive(1, piece(transfer), run);
    if (!frame) return {};
    float value;
    std::memcpy(&value, frame->data(), sizeof value);
    return value;
  };
  receiver.start_run(5);
  send(5, 1, 1.0f), send(5, 2, 2.0f), send(5, 3, 3.0f);
  CHECK(receive(1) == 1.0f);
  receiver.hold(5);
  receiver.start_run(6);
  send(6, 2, 4.0f);
  send(6, 4, 5.0f, 2);           // for run 8
  CHECK(receive(2) == 4.0f);     // this run's
  CHECK(receive(2, 5) == 2.0f);  // the held run's
  receiver.hold({});
  receiver.start_run(7);
  CHECK(receive(3, 5) == std::nullopt);  // dropped
  CHECK(receive(4) == std::nullopt);     // too early
  receiver.start_run(8);
  CHECK(receive(4) == 5.0f);
}

TEST_CASE("arrays of parameters do not overlap, and are of the filters that a program stores and has at home") {
  Rng rng(testing::seed());
  for (int i = 0; i < 50; ++i) {
    CAPTURE(i);
    const auto graph = testing::random_graph(rng, 8);
    const auto plan = testing::random_free_plan(rng, graph, 2, true);
    for (const auto& program : program::compile(graph, plan, program::Mode::kTrain).programs) {
      const exec::ParameterStorage storage(graph, program.stored_filters, program.home_filters);
      REQUIRE(storage.bytes() == program.parameter_bytes);
      REQUIRE(storage.covers(program.stored_filters, program.home_filters));
      std::size_t total = 0;
      std::set<const float*> seen;
      for (const auto& layer : storage.parameters().layers)
        exec::for_each_array(layer, [&](std::span<float> array) {
          total += array.size_bytes();
          for (const float& value : array) REQUIRE((value == 0 && seen.insert(&value).second));
        });
      REQUIRE(total == storage.bytes());
      for (int node = 0; node < graph.size(); ++node) {
        if (!graph[node].trainable()) continue;
        const auto weights = exec::parameter_view(graph, storage.parameters(), node, Slot::kWeights).box,
                   momentum = exec::parameter_view(graph, storage.parameters(), node, Slot::kMomentum).box;
        REQUIRE(weights.n == program.stored_filters[static_cast<std::size_t>(node)]);
        REQUIRE(momentum.n == program.home_filters[static_cast<std::size_t>(node)]);
        REQUIRE(weights.n.size() * weights.c.size() * weights.y.size() * weights.x.size() ==
                static_cast<geometry::Index>(storage.parameters().layers[static_cast<std::size_t>(node)].weights.size()));
      }
    }
    const exec::ParameterStorage all(graph);
    const auto some = program::compile(graph, plan, program::Mode::kTest, 0);
    REQUIRE(all.covers(some.stored_filters, some.home_filters));
  }
}

TEST_CASE("gradients of several subdivisions add up, and the next batch begins with the momentum") {
  const auto graph = two_convolutions();
  Run once(graph, two_rows(graph), testing::seed()), twice(graph, two_rows(graph), testing::seed());
  once.pass(true);
  twice.pass(false), twice.pass(true);
  auto doubled = once.gradients();
  CHECK(std::any_of(doubled.begin(), doubled.end(), [](float v) { return v != 0; }));
  for (float& value : doubled) value *= 2;
  CHECK(relative_error(twice.gradients(), doubled) < 1e-4);
  const auto before = once.storage.parameters().layers[1].weights[0];
  once.apply();
  const auto history = once.gradients();  // Darknet keeps momentum * history
  CHECK(once.storage.parameters().layers[1].weights[0] != before);
  const auto expected = [&] {
    Run one(graph, alone(graph, 2), testing::seed());
    one.pass(true), one.apply();
    return one.gradients();
  }();
  CHECK(relative_error(history, expected) < 1e-4);
}

TEST_CASE("an iteration that is given up leaves no trace once the host's values are scattered: done again it gives the same bits") {
  const auto graph = two_convolutions();
  for (const bool poisoned : {false, true}) {
    CAPTURE(poisoned);
    Run straight(graph, two_rows(graph), testing::seed()), redone(graph, two_rows(graph), testing::seed());
    for (Run* run : {&straight, &redone}) run->iterate();
    const auto before = redone.collected();
    CHECK(before == straight.collected());
    const auto memory = redone.memory;
    const auto put_back = [&] {
      for (std::size_t m = 0; m < memory.size(); ++m) std::ranges::copy(memory[m], redone.memory[m].begin());
    };
    if (poisoned) {  // the outer delta has an infinity: the homes find it
      redone.memory[5][7] = std::numeric_limits<float>::infinity();
      redone.pass(true);
      int found = 0;
      for (int p = 0; p < 3; ++p) found += redone.interpreter->executor(p).not_finite().has_value();
      CHECK(found > 0);
      CHECK(redone.interpreter->executor(0).not_finite() == std::nullopt);  // has nothing at home
    } else {                                                                // in its second subdivision
      redone.pass(false);
      REQUIRE(redone.interpreter->forward());
    }
    put_back();
    for (int p = 0; p < 3; ++p) redone.interpreter->executor(p).abandon();
    set_values(redone.storage.parameters(), before);
    REQUIRE(redone.interpreter->share_parameters());
    straight.iterate(), redone.iterate();
    for (int p = 0; p < 3; ++p) CHECK(redone.interpreter->executor(p).not_finite() == std::nullopt);
    CHECK(redone.collected() == straight.collected());
    CHECK(redone.memory == straight.memory);
  }
}

TEST_CASE("the host looks at the gradients that are at home there, not at old values of others'") {
  const auto graph = graph_of({64, 4, 4}, 64, 3);  // large enough to have two homes
  const auto plan = *plan::make_plan(graph, 2, testing::one_cut(graph, {{1}, {1}, {1, 1}, {1}}, {0, 1}, 2));
  Run run(graph, plan, testing::seed());
  const auto& layer = run.storage.parameters().layers[1];
  REQUIRE(plan.filters(1, 0) == geometry::Range{0, 32});
  layer.bias_updates[40] = std::numeric_limits<float>::quiet_NaN();
  run.pass(true);
  CHECK(run.interpreter->executor(0).not_finite() == std::nullopt);
  layer.bias_updates[20] = std::numeric_limits<float>::quiet_NaN();
  run.pass(true);
  CHECK(run.interpreter->executor(0).not_finite() == 1);
  CHECK(run.interpreter->executor(1).not_finite() == std::nullopt);
}

TEST_CASE("a program that does not fit into memory is refused, not crashed into") {
  const auto graph = two_convolutions();
  auto mesh = testing::connected_mesh(testing::Medium::kInproc, 2);
  exec::Mailbox mailbox(*mesh[0], 7, base::Milliseconds(200));
  base::ThreadPool pool(1);
  exec::Executor executor(graph, std::nullopt, kernels::Backend::kReference, pool);
  auto program = std::make_shared<program::Program>();
  program->arena_bytes = std::size_t{1} << (sizeof(std::size_t) == 8 ? 62 : 30);
  program->stored_filters = program->home_filters = std::vector<geometry::Range>(graph.layers.size());
  const auto status = executor.load(graph, program, 2, mailbox);
  REQUIRE(!status);
  CHECK(status.error().code == base::ErrorCode::kOutOfMemory);
  CHECK(status.error().message.find("use more workers") != std::string::npos);
}
