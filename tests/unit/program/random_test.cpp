// Programs of random graphs and plans, run by an abstract interpreter that knows of every cell what has been computed.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include "program/compile.hpp"
#include "tests/support/program_check.hpp"
#include "tests/support/random_graph.hpp"
#include "tests/support/seed.hpp"

using namespace tessera;
using testing::Rng;

namespace {

constexpr int kCases = 6000;

struct Case {
  std::uint64_t seed;
  graph::Graph graph;
  plan::Plan plan;
};

Case random_case(std::uint64_t seed, bool free_plan) {
  Rng rng(seed);
  Case c{seed, testing::random_graph(rng, rng.between(1, 9)), {}};
  const auto batch = rng.between(1, 3);
  if (free_plan) {
    c.plan = testing::random_free_plan(rng, c.graph, batch, true);
  } else {
    auto layout = testing::random_layout(rng, c.graph, batch);
    layout.host = rng.between(0, layout.participant_count - 1);
    const auto plan = plan::make_plan(c.graph, batch, layout);
    REQUIRE_MESSAGE(plan, plan.error().message);
    c.plan = *plan;
  }
  return c;
}

void check_cases(bool free_plans, int count) {
  std::uint64_t steps = 0, transfers = 0;
  for (int i = 0; i < count; ++i) {
    const Case c = random_case(testing::seed() + static_cast<std::uint64_t>(i), free_plans);
    const auto valid = plan::validate(c.plan, c.graph);
    REQUIRE_MESSAGE(valid, "seed " << c.seed << ": " << valid.error().message);
    for (const auto mode : {program::Mode::kTrain, program::Mode::kTest}) {
      const auto set = program::compile(c.graph, c.plan, mode);
      const auto result = testing::check_programs(c.graph, c.plan, set);
      REQUIRE_MESSAGE(result.failure.empty(),
                      fmt::format("seed {}, {}: {}{}{}", c.seed, mode == program::Mode::kTrain ? "training" : "testing", result.failure,
                                  testing::describe(c.graph), testing::describe(c.plan)));
      steps += result.steps, transfers += result.transfers;
    }
  }
  CAPTURE(transfers);
  CHECK(steps > static_cast<std::uint64_t>(count) * 20);
  CHECK(transfers > static_cast<std::uint64_t>(count) * 10);
}

}  // namespace

TEST_CASE("programs of random graphs and grids compute, fetch and add up every cell once") { check_cases(false, kCases); }

TEST_CASE("programs of plans that cut every tensor its own way, channels included, do too") { check_cases(true, kCases / 4); }
