// What surrounds the programs of one device: parameters, gradients, the all-reduce, and iterations that are undone.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <set>

#include "exec/interpreter.hpp"
#include "program/compile.hpp"
#include "program/gradient_chunks.hpp"
#include "tests/support/random_graph.hpp"
#include "tests/support/seed.hpp"
#include "tests/support/transport_mesh.hpp"

using namespace tessera;
using program::Slot;
using testing::Rng;

namespace {

// Runs body(participant, mailbox) in a thread each and returns their results.
template <typename Body>
std::vector<base::Status> everywhere(testing::Mesh& mesh, base::Milliseconds patience, Body body) {
  std::vector<base::Status> results(mesh.size());
  testing::run_all(mesh, [&](transport::Endpoint& endpoint) {
    exec::Mailbox mailbox(endpoint, 7, patience);
    mailbox.start_run(1);
    results[static_cast<std::size_t>(endpoint.self())] = body(endpoint.self(), mailbox);
  });
  return results;
}

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
    for (const auto& array : exec::replicated_arrays(layer)) fill(array, rng);
    for (float& v : layer.rolling_variance) v = 1 + v * v;
  }
}

std::vector<std::byte> bytes_of(const exec::Parameters& parameters) {
  std::vector<std::byte> bytes(exec::parameter_bytes(parameters));
  exec::write_parameters(parameters, bytes);
  return bytes;
}

// An interpreter of `grid` over in-process endpoints with everything bound.
struct Run {
  Run(const graph::Graph& graph, const plan::Plan& plan, std::uint64_t seed)
      : graph(graph), storage(graph), memory(graph.layers.size() * 3) {
    Rng rng(seed);
    fill(storage.parameters(), rng);
    interpreter = std::make_unique<exec::Interpreter>(graph, storage.parameters(),
                                                      testing::connected_mesh(testing::Medium::kInproc, plan.participants),
                                                      exec::InterpreterOptions{kernels::Backend::kReference, 1, base::Milliseconds(20000)});
    REQUIRE(interpreter->load(graph, plan, program::Mode::kTrain));
    for (int node = 0; node < graph.size(); ++node) {
      const auto elements = static_cast<std::size_t>(plan.batch * graph[node].out.elements());
      const auto bind = [&](std::size_t which, Slot slot) {
        auto& m = memory[static_cast<std::size_t>(node) * 3 + which];
        m.resize(elements);
        fill(m, rng);
        interpreter->bind(node, slot, m.data());
      };
      if (graph[node].kind == graph::LayerKind::kInput)
        bind(0, Slot::kStored), bind(1, Slot::kInputDelta);
      else if (graph[node].delivered)
        bind(0, Slot::kDelivered), bind(1, Slot::kExternalDelta);
    }
  }
  void pass(bool last) {
    REQUIRE(interpreter->forward());
    REQUIRE(interpreter->backward(last));
  }

  graph::Graph graph;
  exec::ParameterStorage storage;
  std::vector<std::vector<float>> memory;
  std::unique_ptr<exec::Interpreter> interpreter;
};

plan::Plan two_rows(const graph::Graph& graph) { return *plan::make_plan(graph, 2, {{{1}, {1, 2}, {1}}, {1, 2}, 3, {}, {}, {}}); }

}  // namespace

TEST_CASE("chunks cover every summed element once, a round has at most one for every owner, and owners have equal shares") {
  Rng rng(testing::seed());
  int by_channels = 0;
  for (int i = 0; i < 200; ++i) {
    const auto graph = testing::random_graph(rng, 8);
    const auto plan =
        rng.chance(0.5) ? testing::random_free_plan(rng, graph, 2) : *plan::make_plan(graph, 2, testing::random_layout(rng, graph, 2));
    if (plan.participants < 2) continue;
    CAPTURE(testing::describe(graph));
    CAPTURE(testing::describe(plan));
    std::map<int, std::map<geometry::Index, geometry::Index>> ranges;  // by node: end by begin
    std::map<std::pair<int, int>, int> in_round;                       // by round and owner
    int node = graph.size();
    const auto sharding = *program::compile(graph, plan, program::Mode::kTrain).sharding;
    for (const auto& chunk : sharding.chunks) {
      REQUIRE(chunk.node <= node);
      node = chunk.node;
      REQUIRE_FALSE(chunk.elements.empty());
      REQUIRE(ranges[node].insert({chunk.elements.begin, chunk.elements.end}).second);
      REQUIRE((chunk.owner >= 0 && chunk.owner < plan.participants));
      REQUIRE(++in_round[{chunk.round, chunk.owner}] == 1);
    }
    for (int n = 0; n < graph.size(); ++n) {
      geometry::Index covered = 0;
      for (const auto& [begin, end] : ranges[n]) {
        REQUIRE(begin == covered);
        covered = end;
      }
      REQUIRE(covered == program::summed_elements(graph, n));
      by_channels += sharding.by_channels[static_cast<std::size_t>(n)];
    }
  }
  CHECK(by_channels > 0);
  const auto large = graph_of({1024, 4, 4}, 1024, 3);
  const auto plan = *plan::make_plan(large, 1, {{{1}, {1, 1, 1, 1}, {1}}, {1, 2, 3, 4}, 5, {}, {}, {}});
  std::map<int, geometry::Index> share;
  const auto divided = program::compile(large, plan, program::Mode::kTrain).sharding;
  for (const auto& chunk : divided->chunks) share[chunk.owner] += chunk.elements.size();
  const auto fair = static_cast<double>(program::summed_elements(large, 1)) / 5;
  CHECK(share.size() == 5);
  for (const auto& [owner, elements] : share) CHECK(std::abs(static_cast<double>(elements) - fair) < 100);
}

TEST_CASE("summing and sharing gradients moves at most 2(N-1)/N of them per participant") {
  const auto graph = graph_of({256, 4, 8}, 256, 3);
  const auto plan = *plan::make_plan(graph, 1, {{{1}, {1, 1, 1}, {1}}, {1, 2, 3}, 4, {}, {}, {}});
  Run run(graph, plan, testing::seed());
  const auto bytes = [&](int p) { return run.interpreter->usage(p).sent_bytes; };
  std::vector<std::uint64_t> plain, summing, sharing;
  REQUIRE(run.interpreter->forward());
  for (auto* usage : {&plain, &summing, &sharing}) {
    std::vector<std::uint64_t> before;
    for (int p = 0; p < 4; ++p) before.push_back(bytes(p));
    if (usage == &sharing)
      REQUIRE(run.interpreter->apply({0.1f, 0.9f, 0.0005f, 2}));
    else
      REQUIRE(run.interpreter->backward(usage == &summing));
    for (int p = 0; p < 4; ++p) usage->push_back(bytes(p) - before[static_cast<std::size_t>(p)]);
  }
  const auto gradient = static_cast<std::uint64_t>(program::summed_elements(graph, 1)) * sizeof(float);
  for (std::size_t p = 0; p < 4; ++p) {
    CAPTURE(p);
    const std::uint64_t moved = summing[p] - plain[p] + sharing[p];
    CHECK(moved <= 2 * 3 * gradient / 4 + 8192);  // headers
    if (p > 0) CHECK(moved >= 2 * 3 * gradient / 4);
  }
}

TEST_CASE("momentum in shards: iterations give the same weights as with the momentum in one place, and it survives a change of members") {
  const auto graph = two_convolutions();
  Run sharded(graph, two_rows(graph), testing::seed());
  const auto one = *plan::make_plan(graph, 2, {{{1}, {1}, {1}}, {0}, 1, {}, {}, {}});
  Run alone(graph, one, testing::seed());
  const auto iterate = [](Run& run) {
    run.pass(true);
    REQUIRE(run.interpreter->apply({0.05f, 0.9f, 0.0005f, 2}));
  };
  for (int i = 0; i < 4; ++i) iterate(sharded), iterate(alone);
  const auto &a = sharded.storage.parameters(), &b = alone.storage.parameters();
  for (std::size_t node = 1; node < a.layers.size(); ++node)
    for (std::size_t i = 0; i < a.layers[node].weights.size(); ++i) {
      REQUIRE(a.layers[node].weights[i] == doctest::Approx(b.layers[node].weights[i]).epsilon(1e-4));
      REQUIRE(a.layers[node].weight_updates[i] == doctest::Approx(b.layers[node].weight_updates[i]).epsilon(1e-3));
    }
  // The coordinator's momentum and the owners' are the same to the bit.
  for (int p = 1; p < 3; ++p) {
    const auto master = exec::momentum_of(a, *sharded.interpreter->programs().sharding, p);
    CHECK(std::ranges::equal(master, sharded.interpreter->executor(p).shard().momentum()));
    CHECK(std::any_of(master.begin(), master.end(), [](float value) { return value != 0; }));
  }
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

TEST_CASE("parameters go to bytes and back, arrays do not overlap") {
  Rng rng(testing::seed());
  for (int i = 0; i < 50; ++i) {
    CAPTURE(i);
    const auto graph = testing::random_graph(rng, 8);
    const exec::ParameterStorage a(graph, exec::ParameterStorage::Holds::kReplica), b(graph, exec::ParameterStorage::Holds::kReplica);
    std::size_t total = 0;
    std::set<const float*> seen;
    for (int node = 0; node < graph.size(); ++node)
      for (const auto& array : exec::replicated_arrays(a.parameters().layers[static_cast<std::size_t>(node)])) {
        total += array.size_bytes();
        for (const float& value : array) REQUIRE(seen.insert(&value).second);
      }
    REQUIRE(total == a.bytes());
    REQUIRE(total == exec::parameter_bytes(a.parameters()));
    fill(a.parameters(), rng);
    exec::read_parameters(bytes_of(a.parameters()), b.parameters());
    REQUIRE(bytes_of(b.parameters()) == bytes_of(a.parameters()));
  }
}

TEST_CASE("gradients of several subdivisions add up, and apply clears them") {
  const auto graph = two_convolutions();
  Run once(graph, two_rows(graph), testing::seed()), twice(graph, two_rows(graph), testing::seed());
  once.pass(true);
  twice.pass(false), twice.pass(true);
  for (int node = 1; node < graph.size(); ++node) {
    const auto a = once.interpreter->gradients(0).weights(node), b = twice.interpreter->gradients(0).weights(node);
    REQUIRE(std::any_of(a.begin(), a.end(), [](float v) { return v != 0; }));
    for (std::size_t i = 0; i < a.size(); ++i) REQUIRE(b[i] == doctest::Approx(2 * a[i]).epsilon(1e-4));
  }
  const auto before = bytes_of(once.storage.parameters());
  REQUIRE(once.interpreter->apply({0.1f, 0.9f, 0.0005f, 2}));
  CHECK(bytes_of(once.storage.parameters()) != before);
  for (int p = 0; p < 3; ++p) {
    CHECK(bytes_of(once.interpreter->parameters(p)) == bytes_of(once.storage.parameters()));
    for (int node = 1; node < graph.size(); ++node) CHECK_FALSE(once.interpreter->gradients(p).has_summed(node));
  }
}

TEST_CASE("restore undoes an iteration: done again it gives the same bits") {
  const auto graph = two_convolutions();
  Run straight(graph, two_rows(graph), testing::seed()), redone(graph, two_rows(graph), testing::seed());
  const auto finish = [](Run& run) {
    run.pass(true);
    REQUIRE(run.interpreter->apply({0.1f, 0.9f, 0.0005f, 2}));
  };
  const auto before = bytes_of(redone.storage.parameters());
  const auto input_delta = redone.memory[1];
  for (int p = 0; p < 3; ++p) redone.interpreter->executor(p).remember();
  redone.pass(false);
  REQUIRE(redone.interpreter->forward());                  // given up in its second subdivision
  CHECK(bytes_of(redone.storage.parameters()) != before);  // rolling averages have moved
  for (int p = 0; p < 3; ++p) redone.interpreter->executor(p).restore();
  CHECK(bytes_of(redone.storage.parameters()) == before);
  redone.memory[1] = input_delta;
  redone.interpreter->bind(0, Slot::kInputDelta, redone.memory[1].data());
  finish(straight), finish(redone);
  CHECK(bytes_of(redone.storage.parameters()) == bytes_of(straight.storage.parameters()));
  CHECK(redone.memory == straight.memory);
}

TEST_CASE("a program that does not fit into memory is refused, not crashed into") {
  const auto graph = two_convolutions();
  const auto plan = two_rows(graph);
  exec::ParameterStorage storage(graph);
  base::ThreadPool pool(1);
  exec::Executor executor(graph, storage.parameters(), kernels::Backend::kReference, pool);
  auto program = std::make_shared<program::Program>();
  program->arena_bytes = std::size_t{1} << (sizeof(std::size_t) == 8 ? 62 : 30);
  const auto status = executor.load(graph, program, program::Mode::kTrain, 1, 3, plan.batch);
  REQUIRE(!status);
  CHECK(status.error().code == base::ErrorCode::kOutOfMemory);
  CHECK(status.error().message.find("use more workers") != std::string::npos);
}
