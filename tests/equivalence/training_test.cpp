// Training, testing in between, and resizing of batches, against stock Darknet.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cmath>

#include "plan/group_search.hpp"
#include "tests/equivalence/shadows.hpp"
#include "tests/equivalence/twins.hpp"
#include "tests/support/random_graph.hpp"
#include "tests/support/seed.hpp"
#include "tests/support/transport_mesh.hpp"

using namespace tessera;
using testing::Rng;

namespace {

constexpr int kIterations = 20;
constexpr double kWeightTolerance = 1e-3, kLossTolerance = 1e-3;

// Rates as in upstream's cfgs, with everything happening within 20 iterations, and high enough to move the weights.
std::string training_lines(int policy, bool detector) {
  const double rate = detector ? 0.0005 : 0.02;
  switch (policy) {
    case 0:
      return fmt::format(
          "learning_rate={}\nmomentum=0.9\ndecay=0.0005\nburn_in=5\npolicy=steps\nsteps=10,15\nscales=.1,.5\nmax_batches=20\n", rate);
    case 1:
      return fmt::format("learning_rate={}\nmomentum=0.9\ndecay=0.005\npolicy=poly\npower=4\nmax_batches=40\n", rate);
    default:
      return fmt::format("learning_rate={}\nmomentum=0.8\ndecay=0.001\npolicy=constant\nmax_batches=20\n", rate);
  }
}

bool is_detector(testing::Family family) {
  return family != testing::Family::kDarknet19 && family != testing::Family::kDarknet53 && family != testing::Family::kResnet18 &&
         family != testing::Family::kResnet50;
}

testing::TwinCase training_case(std::uint64_t seed, testing::Family family) {
  Rng rng(seed);
  testing::NetworkOptions options;
  options.batch = rng.between(2, 3);
  options.subdivisions = rng.between(1, 3);
  options.plain = rng.chance(0.5);
  options.may_stop_backward = rng.chance(0.3);
  options.training = training_lines(rng.between(0, 2), is_detector(family));
  // As many participants as real clusters have: every one is a thread here.
  for (std::uint64_t next = seed;; ++next)
    if (auto c = testing::random_twin_case(next, family, options, rng.chance(0.3)); c.plan.participants <= 6) return c;
}

// Makes the weights that a participant does not read the coordinator's.
void forgive_unread(const program::WeightsRead& read, const graph::Graph& graph, int node, const exec::LayerParameters& of,
                    const exec::LayerParameters& coordinator) {
  const auto channels = static_cast<std::size_t>(graph.input_channels(node)), filter = of.weights.size() / of.biases.size(),
             taps = filter / channels;
  const auto in = [](geometry::Range range, std::size_t i) {
    return range.contains({static_cast<geometry::Index>(i), static_cast<geometry::Index>(i) + 1});
  };
  for (std::size_t i = 0; i < of.weights.size(); ++i)
    if (!in(read.filters, i / filter) && !in(read.channels, i % filter / taps)) of.weights[i] = coordinator.weights[i];
  for (std::size_t i = 0; i < of.biases.size() && !graph[node].batch_normalize; ++i)
    if (!in(read.filters, i)) of.biases[i] = coordinator.biases[i];
}

// Every participant's copy of what it reads.
bool replicas_are_equal(const graph::Graph& graph, exec::Interpreter& interpreter) {
  std::vector<std::byte> first(exec::parameter_bytes(interpreter.parameters(0))), other = first;
  exec::write_parameters(interpreter.parameters(0), first);
  const auto& sharding = *interpreter.programs().sharding;
  for (int p = 1; p < interpreter.participants(); ++p) {
    for (std::size_t node = 0; node < sharding.by_channels.size(); ++node)
      if (sharding.by_channels[node])
        forgive_unread(sharding.reads[node][static_cast<std::size_t>(p)], graph, static_cast<int>(node),
                       interpreter.parameters(p).layers[node], interpreter.parameters(0).layers[node]);
    exec::write_parameters(interpreter.parameters(p), other);
    if (first != other) return false;
  }
  return true;
}

void iteration(testing::Twins& twins, Rng& rng) {
  for (int s = 0; s < twins.stock().subdivisions; ++s) {
    twins.next_batch(rng);
    twins.forward();
    twins.backward(s + 1 == twins.stock().subdivisions);
  }
  twins.update();
}

// One iteration of a copy of the stock network, over the pictures that `rng` will draw.
double iteration(network& net, Rng rng) {
  for (int s = 0; s < net.subdivisions; ++s) {
    testing::randomize_batch(net, rng);
    net.train = 1;
    *net.seen += static_cast<std::size_t>(net.batch);
    stock_forward_network(&net);
    stock_backward_network(&net);
  }
  stock_update_network(&net);
  return *net.cost;
}

// The twins' next iteration, and the copies'.
void iteration(testing::Twins& twins, testing::Shadows& shadows, Rng& rng) {
  const Rng same = rng;
  iteration(twins, rng);
  shadows.follow(twins.stock(), *twins.stock().cost, [&](network& net) { return iteration(net, same); });
}

}  // namespace

TEST_CASE("20 iterations of training give stock Darknet's weights and losses, the same on every participant") {
  int uncertain = 0, cases = 0;
  for (const auto family : testing::all_families()) {
    const auto seed = testing::seed() + 77 * static_cast<std::uint64_t>(family);
    const auto c = training_case(seed, family);
    CAPTURE(describe(c));
    testing::Twins twins(c);
    Rng rng(seed + 3);
    const std::vector<float> before(twins.stock().layers[0].weights, twins.stock().layers[0].weights + twins.stock().layers[0].nweights);
    testing::Shadows shadows(c.cfg, twins.stock(), seed + 4);
    for (int i = 0; i < kIterations; ++i) {
      CAPTURE(i);
      iteration(twins, shadows, rng);
      const float ours = *twins.ours().net().cost, stock = *twins.stock().cost;
      REQUIRE(std::fabs(ours - stock) <= shadows.allowed_loss_error(kLossTolerance) * std::fabs(stock));
    }
    const double error = testing::weight_error(twins.ours().net(), twins.stock());
    REQUIRE(error <= shadows.allowed_weight_error(kWeightTolerance));
    ++cases, uncertain += error > kWeightTolerance;
    CHECK(replicas_are_equal(c.graph, twins.ours().interpreter()));
    // The comparison means something: training has moved the weights much further than that.
    if (!c.options.may_stop_backward)
      CHECK(testing::relative_error(twins.stock().layers[0].weights, before.data(), before.size()) > 4 * error);
  }
  CHECK(uncertain <= testing::kMostUncertain * cases);
}

TEST_CASE("testing in the middle of training, with another batch and plan, and training on") {
  for (const auto family : testing::all_families()) {
    const auto seed = testing::seed() + 991 * static_cast<std::uint64_t>(family);
    const auto c = training_case(seed, family);
    CAPTURE(describe(c));
    testing::Twins twins(c);
    testing::Shadows shadows(c.cfg, twins.stock(), seed + 4);
    Rng rng(seed + 3);
    for (int round = 0; round < 2; ++round) {
      iteration(twins, shadows, rng);
      iteration(twins, shadows, rng);
      twins.set_batch(1);
      auto layout = testing::random_layout(rng, c.graph, 1);
      while (layout.participant_count > c.plan.participants) layout = testing::random_layout(rng, c.graph, 1);
      layout.participant_count = c.plan.participants;
      const auto plan = plan::make_plan(c.graph, 1, layout);
      REQUIRE(plan);
      twins.load(*plan, program::Mode::kTest);
      twins.next_batch(rng);
      twins.forward();
      for (const auto& [name, difference] : twins.compare_forward()) {
        CAPTURE(name);
        // Weights have gone their own way for up to four iterations.
        CHECK(difference.error <= shadows.allowed_weight_error(10 * difference.tolerance));
      }
      twins.set_batch(c.options.batch);
      twins.load(c.plan, program::Mode::kTrain);
    }
    CHECK(testing::weight_error(twins.ours().net(), twins.stock()) <= shadows.allowed_weight_error(kWeightTolerance));
    CHECK(replicas_are_equal(c.graph, twins.ours().interpreter()));
  }
}

TEST_CASE("in-process, ipc and tcp give the same bits, and so do two runs") {
  for (const auto family : {testing::Family::kYolov2, testing::Family::kYolov3Tiny, testing::Family::kResnet18}) {
    for (const auto backend : kernels::built_backends()) {
      auto c = training_case(testing::seed() + 5 * static_cast<std::uint64_t>(family), family);
      // A 2x2 grid and a coordinator without boxes.
      c.backend = backend;
      const auto plan = plan::make_plan(c.graph, c.options.batch, {{{1}, {1, 1}, {1, 1}}, {1, 2, 3, 4}, 5, {}, {}, {}});
      REQUIRE(plan);
      c.plan = *plan;
      CAPTURE(describe(c));
      std::vector<std::byte> first;
      for (const auto medium : {testing::Medium::kInproc, testing::Medium::kInproc, testing::Medium::kIpc, testing::Medium::kTcp}) {
        CAPTURE(testing::medium_name(medium));
        testing::Twins twins(c, testing::connected_mesh(medium, c.plan.participants));
        Rng rng(c.seed + 3);
        iteration(twins, rng);
        iteration(twins, rng);
        twins.forward();
        std::vector<std::byte> result(exec::parameter_bytes(twins.ours().interpreter().parameters(0)));
        exec::write_parameters(twins.ours().interpreter().parameters(0), result);
        for (int node = c.graph.first_layer(); node < c.graph.size(); ++node)
          if (c.graph[node].delivered) {
            const layer& l = twins.ours().net().layers[c.graph[node].source];
            const auto bytes = std::as_bytes(std::span(l.output, static_cast<std::size_t>(l.outputs * l.batch)));
            result.insert(result.end(), bytes.begin(), bytes.end());
          }
        if (first.empty()) first = result;
        REQUIRE(result == first);
      }
    }
  }
}

TEST_CASE("computing insides of groups again gives the same bits, for less memory") {
  int smaller = 0;
  for (const auto family : testing::all_families()) {
    auto c = training_case(testing::seed() + 31 * static_cast<std::uint64_t>(family), family);
    c.plan.forward_starts = plan::starts_after_shrinking(c.graph);
    CAPTURE(describe(c));
    std::vector<std::vector<std::byte>> results;
    std::vector<std::size_t> arenas;
    for (const bool recompute : {false, true}) {
      c.plan.recompute = recompute;
      testing::Twins twins(c);
      Rng rng(c.seed + 3);
      iteration(twins, rng);
      iteration(twins, rng);
      auto& interpreter = twins.ours().interpreter();
      results.emplace_back(exec::parameter_bytes(interpreter.parameters(0)));
      exec::write_parameters(interpreter.parameters(0), results.back());
      std::size_t sum = 0;
      for (const auto& program : interpreter.programs().programs) sum += program.arena_bytes;
      arenas.push_back(sum);
    }
    REQUIRE(results[0] == results[1]);
    smaller += arenas[1] < arenas[0];
  }
  CHECK(smaller > 0);
}
