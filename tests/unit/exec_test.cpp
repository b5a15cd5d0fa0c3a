// What surrounds the programs of one device: parameters, gradients, the all-reduce, and iterations that are undone.
#include <doctest/doctest.h>

#include <algorithm>
#include <set>
#include <cstring>

#include "exec/all_reduce.hpp"
#include "exec/interpreter.hpp"
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

void fill(const exec::Parameters& parameters, Rng& rng) {
  for (const auto& layer : parameters.layers) {
    for (const auto& array : exec::arrays(layer)) fill(array, rng);
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
    interpreter = std::make_unique<exec::Interpreter>(graph, storage.parameters(), testing::connected_mesh(testing::Medium::kInproc, plan.participants),
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
      if (graph[node].kind == graph::LayerKind::kInput) bind(0, Slot::kStored), bind(1, Slot::kInputDelta);
      else if (graph[node].delivered) bind(0, Slot::kDelivered), bind(1, Slot::kExternalDelta);
    }
  }
  void pass() {
    REQUIRE(interpreter->forward());
    REQUIRE(interpreter->backward());
  }

  graph::Graph graph;
  exec::ParameterStorage storage;
  std::vector<std::vector<float>> memory;
  std::unique_ptr<exec::Interpreter> interpreter;
};

plan::Plan two_rows(const graph::Graph& graph) { return *plan::make_plan(graph, 2, {{{1}, {1, 2}, {1}}, {1, 2}, 3, {}, {}, {}}); }

}  // namespace

TEST_CASE("all_reduce leaves the same sum of the contributors with everybody, in participant order") {
  Rng rng(testing::seed());
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{15}, std::size_t{100}, (std::size_t{1} << 20) + 17}) {
    for (const int participants : {1, 2, 3, 5}) {
      std::vector<bool> contributes;
      for (int p = 0; p < participants; ++p) contributes.push_back(p > 0 || rng.chance(0.5) || participants == 1);
      std::vector<std::vector<float>> values(static_cast<std::size_t>(participants), std::vector<float>(size));
      for (auto& v : values) fill(v, rng);
      std::vector<float> expected(size);
      for (std::size_t p = 0; p < values.size(); ++p)
        if (contributes[p])
          for (std::size_t i = 0; i < size; ++i) expected[i] += values[p][i];
      auto mesh = testing::connected_mesh(testing::Medium::kInproc, participants);
      const auto results = everywhere(mesh, base::Milliseconds(20000), [&](int p, exec::Mailbox& mailbox) {
        return exec::all_reduce(values[static_cast<std::size_t>(p)], contributes, p, mailbox);
      });
      CAPTURE(size);
      CAPTURE(participants);
      for (std::size_t p = 0; p < values.size(); ++p) {
        REQUIRE(results[p]);
        REQUIRE(values[p] == expected);
      }
    }
  }
}

TEST_CASE("all_reduce moves at most 2(N-1)/N of the array per participant") {
  constexpr std::size_t kSize = 1 << 16;
  auto mesh = testing::connected_mesh(testing::Medium::kInproc, 4);
  std::vector<std::vector<float>> values(4, std::vector<float>(kSize, 1.0f));
  const auto results = everywhere(mesh, base::Milliseconds(20000), [&](int p, exec::Mailbox& mailbox) {
    return exec::all_reduce(values[static_cast<std::size_t>(p)], {true, true, true, true}, p, mailbox);
  });
  for (const auto& result : results) REQUIRE(result);
  for (const auto& endpoint : mesh) CHECK(endpoint->stats().sent_bytes <= 2 * 3 * kSize * sizeof(float) / 4 + 6 * 256);
}

TEST_CASE("a mailbox takes the piece it waits for, whatever comes first, and drops old runs and strangers' sessions") {
  auto mesh = testing::connected_mesh(testing::Medium::kInproc, 2);
  exec::Mailbox sender(*mesh[1], 7, base::Milliseconds(5000)), stranger(*mesh[1], 8, base::Milliseconds(5000)), receiver(*mesh[0], 7, base::Milliseconds(200));
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
  send(sender, 3, 5, 4.0f);    // of the next run already
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
    const exec::ParameterStorage a(graph), b(graph);
    std::size_t total = 0;
    std::set<const float*> seen;
    for (int node = 0; node < graph.size(); ++node)
      for (const auto& array : exec::arrays(a.parameters().layers[static_cast<std::size_t>(node)])) {
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
  once.pass();
  twice.pass(), twice.pass();
  REQUIRE(once.interpreter->reduce_gradients());
  REQUIRE(twice.interpreter->reduce_gradients());
  for (int node = 1; node < graph.size(); ++node) {
    const auto a = once.interpreter->gradients(0).weights(node), b = twice.interpreter->gradients(0).weights(node);
    REQUIRE(std::any_of(a.begin(), a.end(), [](float v) { return v != 0; }));
    for (std::size_t i = 0; i < a.size(); ++i) REQUIRE(b[i] == doctest::Approx(2 * a[i]).epsilon(1e-4));
  }
  const auto before = bytes_of(once.storage.parameters());
  once.interpreter->apply({0.1f, 0.9f, 0.0005f, 2});
  CHECK(bytes_of(once.storage.parameters()) != before);
  for (int p = 0; p < 3; ++p) {
    CHECK(bytes_of(once.interpreter->parameters(p)) == bytes_of(once.storage.parameters()));
    for (const float value : once.interpreter->gradients(p).partial()) REQUIRE(value == 0);
  }
}

TEST_CASE("restore undoes an iteration: done again it gives the same bits") {
  const auto graph = two_convolutions();
  Run straight(graph, two_rows(graph), testing::seed()), redone(graph, two_rows(graph), testing::seed());
  const auto finish = [](Run& run) {
    run.pass();
    REQUIRE(run.interpreter->reduce_gradients());
    run.interpreter->apply({0.1f, 0.9f, 0.0005f, 2});
  };
  const auto before = bytes_of(redone.storage.parameters());
  const auto input_delta = redone.memory[1];
  for (int p = 0; p < 3; ++p) redone.interpreter->executor(p).remember();
  redone.pass();
  REQUIRE(redone.interpreter->forward());  // given up in its second subdivision
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
