// Plans: layouts, JSON, and what validate() refuses.
#include <doctest/doctest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "plan/plan.hpp"
#include "tests/support/random_graph.hpp"
#include "tests/support/seed.hpp"

using namespace tessera;
using geometry::Box;
using testing::Rng;

namespace {

graph::Graph random_graph() {
  Rng rng(testing::seed());
  for (;;)
    if (auto graph = testing::random_graph(rng, 8); graph.size() > 5) return graph;
}

// Convolutions that all give this shape, layers 0 to `count` - 1.
graph::Graph chain(int count, geometry::Shape shape) {
  graph::Graph graph;
  graph.layers.resize(static_cast<std::size_t>(count) + 1);
  for (int node = 0; node <= count; ++node) {
    auto& l = graph.layers[static_cast<std::size_t>(node)];
    l.out = shape;
    l.source = node - 1;
    if (node > 0) l.kind = graph::LayerKind::kConvolutional, l.inputs = {node - 1};
  }
  return graph;
}

// A 2x2 grid over four participants.
plan::Layout four_tiles() { return {{{1}, {1, 1}, {1, 1}}, {0, 1, 2, 3}, 4, {}, {}, {}}; }

}  // namespace

TEST_CASE("plan JSON comes back equal, and owned boxes are partitions") {
  Rng rng(testing::seed());
  for (int i = 0; i < 500; ++i) {
    CAPTURE(i);
    const auto graph = testing::random_graph(rng, 8);
    const auto batch = rng.between(1, 4);
    const auto plan = plan::make_plan(graph, batch, testing::random_layout(rng, graph, batch));
    REQUIRE_MESSAGE(plan, plan.error().message);
    for (int node = 0; node < graph.size(); ++node)
      REQUIRE(geometry::is_partition(plan->owned[static_cast<std::size_t>(node)], Box::whole(batch, graph[node].out)));
    const auto back = plan::plan_from_json(nlohmann::json::parse(plan::to_json(*plan).dump()), graph);
    REQUIRE_MESSAGE(back, back.error().message);
    REQUIRE(*back == *plan);
  }
}

TEST_CASE("layers cut along channels: shares follow the devices, each is a group of its own") {
  const auto graph = chain(4, {8, 4, 4});
  auto layout = four_tiles();
  layout.forward_starts = {1}, layout.backward_ends = {4};
  layout.channel_nodes = {2, 4}, layout.channel_shares = {3, 1, 3, 1};
  auto plan = plan::make_plan(graph, 2, layout);
  REQUIRE_MESSAGE(plan, plan.error().message);
  CHECK(plan->forward_starts == std::vector<int>{1, 2, 3, 4});
  CHECK(plan->backward_ends == std::vector<int>{1, 2, 3, 4});
  CHECK(plan->box(1, 0) == Box{{0, 2}, {0, 8}, {0, 2}, {0, 2}});
  for (const int node : {2, 3}) {
    CHECK(plan->box(node, 0) == Box{{0, 2}, {0, 3}, {0, 4}, {0, 4}});
    CHECK(plan->box(node, 3) == Box{{0, 2}, {7, 8}, {0, 4}, {0, 4}});
  }
  layout.channel_nodes = {2, 6};
  CHECK(!plan::make_plan(graph, 2, layout));
  layout.channel_nodes = {0, 2};
  CHECK(!plan::make_plan(graph, 2, layout));
  layout.channel_nodes = {2, 4}, layout.channel_shares = {1, 1};
  CHECK(!plan::make_plan(graph, 2, layout));
}

TEST_CASE("groups follow their marks, and every plan has the marks it needs") {
  const auto graph = chain(5, {1, 8, 8});
  REQUIRE(graph::validate(graph));
  auto layout = four_tiles();
  layout.forward_starts = {3};
  layout.backward_ends = {2};
  const auto plan = plan::make_plan(graph, 1, layout);
  REQUIRE(plan);
  CHECK(plan->forward_starts == std::vector<int>{1, 3});
  CHECK(plan->backward_ends == std::vector<int>{2, 5});
  const auto forward = plan::forward_groups(*plan, graph), backward = plan::backward_groups(*plan, graph);
  CHECK(forward[0] == -1);
  CHECK(forward[1] == forward[2]);
  CHECK(forward[2] != forward[3]);
  CHECK(forward[3] == forward[5]);
  CHECK(backward[1] == backward[2]);
  CHECK(backward[2] != backward[3]);
  CHECK(backward[3] == backward[5]);
}

TEST_CASE("a participant without boxes contributes nothing") {
  const auto graph = random_graph();
  auto layout = four_tiles();
  layout.participants = {1, 2, 3, 4};
  layout.participant_count = 5;
  const auto plan = plan::make_plan(graph, 1, layout);
  REQUIRE(plan);
  CHECK(plan::contributors(*plan)[0] == false);
}

TEST_CASE("validate refuses each way of breaking a plan") {
  const auto graph = random_graph();
  const auto good = plan::make_plan(graph, 2, four_tiles());
  REQUIRE(good);
  struct Break {
    const char* expected;
    std::function<void(plan::Plan&)> apply;
  };
  const std::vector<Break> breaks = {
      {"impossible batch 0", [](plan::Plan& p) { p.batch = 0; }},
      {"do not cover its output once", [](plan::Plan& p) { p.batch = 3; }},
      {"impossible number of participants 0", [](plan::Plan& p) { p.participants = 0; }},
      {"do not cover its output once", [](plan::Plan& p) { p.participants = 5; }},
      {"tensors, the graph has", [](plan::Plan& p) { p.owned.pop_back(); }},
      {"do not cover its output once", [](plan::Plan& p) { p.owned.back()[0] = Box{}; }},
      {"do not cover its output once", [](plan::Plan& p) { p.owned.back()[0] = p.owned.back()[3]; }},
      {"do not cover its output once", [](plan::Plan& p) { p.owned[1][3].y.end += 1; }},
      {"forward groups must be ascending", [](plan::Plan& p) { p.forward_starts.clear(); }},
      {"forward groups must be ascending", [](plan::Plan& p) { p.forward_starts.push_back(p.forward_starts.back()); }},
      {"forward groups name a layer outside", [](plan::Plan& p) { p.forward_starts = {0}; }},
      {"forward groups name a layer outside", [](plan::Plan& p) { p.forward_starts.push_back(1000); }},
      {"backward groups name a layer outside", [](plan::Plan& p) { p.backward_ends.push_back(1000); }},
      {"backward groups lack layer", [](plan::Plan& p) { p.backward_ends.pop_back(); }},
      {"forward groups lack layer", [](plan::Plan& p) { p.forward_starts.erase(p.forward_starts.begin()); }},
  };
  REQUIRE(good->forward_starts.size() > 1);
  for (const Break& b : breaks) {
    plan::Plan plan = *good;
    b.apply(plan);
    CAPTURE(b.expected);
    const auto status = plan::validate(plan, graph);
    REQUIRE(!status);
    CAPTURE(status.error().message);
    CHECK(status.error().message.find(b.expected) != std::string::npos);
  }
}

TEST_CASE("make_plan refuses layouts that do not fit") {
  const auto graph = random_graph();
  auto layout = four_tiles();
  layout.participants = {0, 1, 2};
  CHECK(plan::make_plan(graph, 1, layout).error().message == "a grid of 4 cells for 3 devices");
  layout = four_tiles();
  layout.participants[2] = 4;
  CHECK(plan::make_plan(graph, 1, layout).error().message == "grid cell 2 is given to participant 4, which cannot take it");
  layout = four_tiles();
  layout.participants[2] = 0;
  CHECK(!plan::make_plan(graph, 1, layout));
  CHECK(!plan::make_plan(graph, 0, four_tiles()));
  layout = four_tiles();
  layout.forward_starts = {1000};
  CHECK(!plan::make_plan(graph, 1, layout));
}

TEST_CASE("plan_from_json refuses what is not a plan for the graph") {
  const auto graph = random_graph();
  const auto good = plan::to_json(*plan::make_plan(graph, 1, four_tiles()));
  CHECK(plan::plan_from_json(good, graph));
  auto json = good;
  json.erase("owned");
  CHECK(plan::plan_from_json(json, graph).error().code == base::ErrorCode::kProtocol);
  json = good;
  json["owned"][0][0] = {0, 1, 0};
  CHECK(plan::plan_from_json(json, graph).error().code == base::ErrorCode::kProtocol);
  json = good;
  json["wire"] = "fp8";
  CHECK(plan::plan_from_json(json, graph).error().code == base::ErrorCode::kProtocol);
  json = good;
  json["batch"] = -1;
  CHECK(plan::plan_from_json(json, graph).error().code == base::ErrorCode::kInvalidArgument);
}
