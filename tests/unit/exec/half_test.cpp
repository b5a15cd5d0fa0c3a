// wire = fp16: what rounding copies on the wire does to results, and what it saves.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "exec/interpreter.hpp"
#include "program/compile.hpp"
#include "program/work.hpp"
#include "tests/support/random_graph.hpp"
#include "tests/support/seed.hpp"
#include "tests/support/transport_mesh.hpp"

using namespace tessera;
using program::Slot;
using testing::Rng;

namespace {

graph::Layer layer(graph::LayerKind kind, int input, geometry::Shape out) {
  graph::Layer l;
  l.kind = kind;
  l.inputs = {input};
  l.out = out;
  return l;
}

// A detector's body in small, of random widths: convolutions with batch norm, halved twice, and a head. `smooth`: without
// the kinks of leaky activations and max-pools, where a rounded value may take another branch than the exact one.
graph::Graph random_body(Rng& rng, bool smooth) {
  graph::Graph graph;
  graph.layers.emplace_back().out = {3, 32, 32};
  geometry::Index side = 32;
  for (int block = 0; block < 5; ++block) {
    const int before = graph.size() - 1, kernel = block == 2 ? 1 : 3;
    const bool halves = block == 1 || block == 3;
    if (halves && smooth) side /= 2;
    auto conv = layer(graph::LayerKind::kConvolutional, before, {rng.between(4, 12), side, side});
    conv.stride = halves && smooth ? 2 : 1;
    conv.kernel = kernel, conv.pad = kernel / 2;
    conv.batch_normalize = block < 4;
    conv.activation = block < 4 && !smooth ? "leaky" : "linear";
    graph.layers.push_back(conv);
    if (!halves || smooth) continue;
    side /= 2;
    auto pool = layer(graph::LayerKind::kMaxpool, graph.size() - 1, {conv.out.c, side, side});
    pool.kernel = pool.stride = 2;
    graph.layers.push_back(pool);
  }
  for (int node = 0; node < graph.size(); ++node) graph.layers[static_cast<std::size_t>(node)].source = node;
  graph.layers.back().delivered = true;
  return graph;
}

struct Outcome {
  std::vector<float> output, input_delta, gradient;  // of all layers
  std::uint64_t sent_bytes = 0;
  program::ProgramSet programs;
};

Outcome train_pass(const graph::Graph& graph, const plan::Plan& plan, std::uint64_t seed) {
  Rng rng(seed);
  exec::ParameterStorage storage(graph);
  for (const auto& l : storage.parameters().layers)
    for (const auto& array : {l.weights, l.biases, l.scales, l.rolling_mean, l.rolling_variance})
      for (float& value : array) value = rng.uniform(-1, 1) * (array.data() == l.weights.data() ? 0.4f : 1);
  exec::Interpreter interpreter(graph, storage.parameters(), testing::connected_mesh(testing::Medium::kInproc, plan.participants),
                                {kernels::Backend::kBlas, 1, base::Milliseconds(20000)});
  REQUIRE(interpreter.load(graph, plan, program::Mode::kTrain));
  const int last = graph.size() - 1;
  std::vector<float> input(static_cast<std::size_t>(plan.batch * graph[0].out.elements()));
  std::vector<float> delta(static_cast<std::size_t>(plan.batch * graph[last].out.elements()));
  for (float& value : input) value = rng.uniform(0, 1);
  for (float& value : delta) value = rng.uniform(-1e-7f, 1e-7f);  // as small as deltas of a trained network
  Outcome outcome;
  outcome.output.resize(delta.size());
  outcome.input_delta.resize(input.size());
  interpreter.bind(0, Slot::kStored, input.data());
  interpreter.bind(0, Slot::kInputDelta, outcome.input_delta.data());
  interpreter.bind(last, Slot::kDelivered, outcome.output.data());
  interpreter.bind(last, Slot::kExternalDelta, delta.data());
  REQUIRE(interpreter.forward());
  REQUIRE(interpreter.backward(true));
  for (int p = 0; p < plan.participants; ++p) outcome.sent_bytes += interpreter.usage(p).sent_bytes;
  REQUIRE(interpreter.collect());
  for (int node = 1; node <= last; ++node)
    if (graph[node].trainable()) {
      const auto weights = storage.parameters().layers[static_cast<std::size_t>(node)].weight_updates;
      outcome.gradient.insert(outcome.gradient.end(), weights.begin(), weights.end());
    }
  outcome.programs = interpreter.programs();
  return outcome;
}

double relative_error(const std::vector<float>& got, const std::vector<float>& want) {
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    difference += std::pow(static_cast<double>(got[i]) - want[i], 2);
    size += std::pow(static_cast<double>(want[i]), 2);
  }
  return std::sqrt(difference / size);
}

struct Tensors {
  std::uint64_t elements = 0, messages = 0, bytes = 0;
};

// Activations and deltas that the programs send.
Tensors tensors_sent(const program::ProgramSet& set) {
  Tensors sent;
  for (const auto& program : set.programs)
    for (const auto phase : {program::Phase::kLoad, program::Phase::kForward, program::Phase::kBackward})
      for (const auto& step : program.steps(phase)) {
        if (!program::is_send(step)) continue;
        const Slot slot = program.buffer(step.a).slot;
        if (slot == Slot::kWinners || slot > Slot::kInputDelta) continue;
        sent.elements += static_cast<std::uint64_t>(step.box.elements());
        sent.bytes += program::message_bytes(program, step);
        ++sent.messages;
      }
  return sent;
}

}  // namespace

TEST_CASE("half precision on the wire halves what tensors cost, and results change as much as rounding explains") {
  constexpr int kCases = 12;
  for (const bool smooth : {true, false}) {
    double output = 0, gradient = 0, input_delta = 0, ratio = 0;
    for (int i = 0; i < kCases; ++i) {
      const std::uint64_t seed = testing::seed() + static_cast<std::uint64_t>(i);
      Rng rng(seed);
      const graph::Graph graph = random_body(rng, smooth);
      auto plan = plan::make_plan(graph, 2, testing::random_layout(rng, graph, 2));
      REQUIRE(plan);
      const Outcome exact = train_pass(graph, *plan, seed);
      plan->wire = plan::WireType::kFloat16;
      const Outcome rounded = train_pass(graph, *plan, seed);
      CAPTURE(seed);
      const Tensors floats = tensors_sent(exact.programs), halves = tensors_sent(rounded.programs);
      CHECK(floats.bytes == 4 * floats.elements);
      CHECK(halves.bytes == 2 * floats.elements + 2 * floats.messages);
      CHECK(exact.sent_bytes - rounded.sent_bytes == floats.bytes - halves.bytes);
      if (floats.messages == 0) continue;  // participant 0 has it all
      CHECK(relative_error(rounded.output, exact.output) > 0);
      output = std::max(output, relative_error(rounded.output, exact.output));
      gradient = std::max(gradient, relative_error(rounded.gradient, exact.gradient));
      input_delta = std::max(input_delta, relative_error(rounded.input_delta, exact.input_delta));
      ratio = std::max(ratio, static_cast<double>(halves.bytes) / static_cast<double>(floats.bytes));
    }
    fmt::print(
        "wire=fp16, {} random networks {} leaky and max-pool, largest relative error: outputs {:.1e}, weight gradients "
        "{:.1e}, input deltas {:.1e}; bytes of activations and deltas: {:.3f} of fp32\n",
        kCases, smooth ? "without" : "with", output, gradient, input_delta, ratio);
    CAPTURE(smooth);
    CHECK(output > 0);
    CHECK(output <= (smooth ? 1e-3 : 5e-3));
    CHECK(gradient <= (smooth ? 1e-3 : 1.5e-1));
    CHECK(input_delta <= (smooth ? 1e-3 : 2e-1));
    CHECK(ratio <= 0.51);
  }
}

TEST_CASE("programs for another number format have another fingerprint") {
  Rng rng(testing::seed());
  const graph::Graph graph = random_body(rng, false);
  auto plan = plan::make_plan(graph, 2, testing::random_layout(rng, graph, 2));
  REQUIRE(plan);
  const auto exact = program::fingerprint(program::compile(graph, *plan, program::Mode::kTest, 0));
  plan->wire = plan::WireType::kFloat16;
  CHECK(program::fingerprint(program::compile(graph, *plan, program::Mode::kTest, 0)) != exact);
}
