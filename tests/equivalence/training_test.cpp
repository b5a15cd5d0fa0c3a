// Training, testing in between, and resizing of batches, against stock Darknet.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

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

// Every participant has the network's values of all it stores. After collect().
bool replicas_are_equal(testing::Twins& twins) {
  auto& interpreter = twins.ours().interpreter();
  std::size_t compared = 0;
  for (int p = 1; p < interpreter.participants(); ++p)
    for (std::size_t node = 0; node < interpreter.executor(p).parameters().layers.size(); ++node) {
      const auto &of = interpreter.executor(p).parameters().layers[node], &host = interpreter.executor(0).parameters().layers[node];
      if (of.filters.empty()) continue;
      const auto filters = static_cast<std::size_t>(host.filters.size());
      const auto same = [&](const char* name, std::span<const float> part, std::span<const float> all, geometry::Index first) {
        const bool equal = part.empty() || std::memcmp(part.data(), all.data() + static_cast<std::size_t>(first) * (all.size() / filters),
                                                       part.size_bytes()) == 0;
        if (!equal) MESSAGE(std::string(name), " of node ", node, " on participant ", p, " are not the network's");
        return equal;
      };
      // Biases without a batch norm behind them are read with the filter's weights only.
      const geometry::Range biases = host.scales.empty() ? of.filters : host.filters;
      const auto read = of.biases.subspan(static_cast<std::size_t>(biases.begin), static_cast<std::size_t>(biases.size()));
      if (!(same("weights", of.weights, host.weights, of.filters.begin) && same("biases", read, host.biases, biases.begin) &&
            same("scales", of.scales, host.scales, 0) && same("rolling means", of.rolling_mean, host.rolling_mean, 0) &&
            same("rolling variances", of.rolling_variance, host.rolling_variance, 0) &&
            same("weight momentum", of.weight_updates, host.weight_updates, of.home.begin) &&
            same("bias momentum", of.bias_updates, host.bias_updates, of.home.begin) &&
            same("scale momentum", of.scale_updates, host.scale_updates, of.home.begin)))
        return false;
      ++compared;
    }
  return compared > 0 || interpreter.participants() == 1;
}

// All parameters and momentum, after they were collected.
std::vector<std::byte> collected(testing::Twins& twins) {
  twins.collect();
  std::vector<std::byte> bytes;
  for (const auto& layer : twins.ours().interpreter().executor(0).parameters().layers)
    exec::for_each_array(layer, [&](std::span<float> array) {
      const auto part = std::as_bytes(array);
      bytes.insert(bytes.end(), part.begin(), part.end());
    });
  return bytes;
}

// Groups up to each layer that makes the map smaller, and those that the plan needs.
std::vector<int> large_groups(const graph::Graph& graph, const plan::Plan& plan) {
  const auto shrinking = plan::starts_after_shrinking(graph);
  std::set<int> starts(shrinking.begin(), shrinking.end());
  for (int node = graph.first_layer(); node < graph.size(); ++node)
    if (plan::cut_along_channels(plan, graph, node)) starts.insert({node, std::min(node + 1, graph.size() - 1)});
  return {starts.begin(), starts.end()};
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
    twins.collect();
    const double error = testing::weight_error(twins.ours().net(), twins.stock());
    REQUIRE(error <= shadows.allowed_weight_error(kWeightTolerance));
    ++cases, uncertain += error > kWeightTolerance;
    CHECK(replicas_are_equal(twins));
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
    twins.collect();
    CHECK(testing::weight_error(twins.ours().net(), twins.stock()) <= shadows.allowed_weight_error(kWeightTolerance));
    CHECK(replicas_are_equal(twins));
  }
}

TEST_CASE("in-process, ipc and tcp give the same bits, and so do two runs") {
  for (const auto family : {testing::Family::kYolov2, testing::Family::kYolov3Tiny, testing::Family::kResnet18}) {
    for (const auto backend : kernels::built_backends()) {
      auto c = training_case(testing::seed() + 5 * static_cast<std::uint64_t>(family), family);
      // A 2x2 grid and a coordinator without boxes.
      c.backend = backend;
      const auto plan = plan::make_plan(c.graph, c.options.batch, testing::one_cut(c.graph, {{1}, {1}, {1, 1}, {1, 1}}, {1, 2, 3, 4}, 5));
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
        std::vector<std::byte> result = collected(twins);
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
    c.plan.forward_starts = large_groups(c.graph, c.plan);
    CAPTURE(describe(c));
    std::vector<std::vector<std::byte>> results;
    std::vector<std::size_t> arenas;
    for (const bool recompute : {false, true}) {
      c.plan.recompute = recompute;
      testing::Twins twins(c);
      Rng rng(c.seed + 3);
      iteration(twins, rng);
      iteration(twins, rng);
      results.push_back(collected(twins));
      std::size_t sum = 0;
      for (const auto& program : twins.ours().interpreter().programs().programs) sum += program.arena_bytes;
      arenas.push_back(sum);
    }
    REQUIRE(results[0] == results[1]);
    smaller += arenas[1] < arenas[0];
  }
  CHECK(smaller > 0);
}
