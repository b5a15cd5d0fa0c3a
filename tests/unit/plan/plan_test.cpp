// Plans: layouts, homes, JSON, and what validate() refuses.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
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
plan::Layout four_tiles(const graph::Graph& graph) { return testing::one_cut(graph, {{1}, {1}, {1, 1}, {1, 1}}, {0, 1, 2, 3}, 4); }

}  // namespace

TEST_CASE("plan JSON comes back equal, and owned boxes are partitions") {
  Rng rng(testing::seed());
  for (int i = 0; i < 500; ++i) {
    CAPTURE(i);
    const auto graph = testing::random_graph(rng, 8);
    const auto batch = rng.between(1, 4);
    auto plan = plan::make_plan(graph, batch, testing::random_layout(rng, graph, batch));
    REQUIRE_MESSAGE(plan, plan.error().message);
    if (rng.chance(0.3)) plan = testing::random_free_plan(rng, graph, batch, true);
    for (int node = 0; node < graph.size(); ++node)
      REQUIRE(geometry::is_partition(plan->owned[static_cast<std::size_t>(node)], Box::whole(batch, graph[node].out)));
    const auto back = plan::plan_from_json(nlohmann::json::parse(plan::to_json(*plan).dump()), graph);
    REQUIRE_MESSAGE(back, back.error().message);
    REQUIRE(*back == *plan);
  }
}

TEST_CASE("layers cut along channels: shares follow the devices, each is a group of its own") {
  const auto graph = chain(4, {8, 4, 4});
  auto layout = four_tiles(graph);
  layout.forward_starts = {1}, layout.backward_ends = {4};
  const auto grid = layout.segments[0];
  const plan::Segment channels{4, {{1}, {3, 1, 3, 1}, {1}, {1}}, {0, 1, 2, 3}};
  layout.segments = {grid, channels, grid};
  layout.segments[0].end = 2;
  const auto plan = plan::make_plan(graph, 2, layout);
  REQUIRE_MESSAGE(plan, plan.error().message);
  CHECK(plan->forward_starts == std::vector<int>{1, 2, 3, 4});
  CHECK(plan->backward_ends == std::vector<int>{1, 2, 3, 4});
  CHECK(plan->box(1, 0) == Box{{0, 2}, {0, 8}, {0, 2}, {0, 2}});
  for (const int node : {2, 3}) {
    CHECK(plan->box(node, 0) == Box{{0, 2}, {0, 3}, {0, 4}, {0, 4}});
    CHECK(plan->box(node, 3) == Box{{0, 2}, {7, 8}, {0, 4}, {0, 4}});
  }
  // Weights are at home with those who compute the filters.
  CHECK(plan->weights[2][0] == Box{{0, 3}, {0, 8}, {0, 1}, {0, 1}});
  CHECK(plan->filters(3, 3) == geometry::Range{7, 8});
  const auto refused = [&](auto change) {
    auto changed = layout;
    change(changed);
    return !plan::make_plan(graph, 2, changed);
  };
  CHECK_FALSE(refused([](plan::Layout&) {}));
  CHECK(refused([](plan::Layout& l) { l.segments.back().end = 6; }));
  CHECK(refused([](plan::Layout& l) { l.segments.pop_back(); }));
  CHECK(refused([](plan::Layout& l) { l.segments[0].end = 1; }));
  CHECK(refused([](plan::Layout& l) { l.segments[1].end = 2; }));
  CHECK(refused([](plan::Layout& l) { l.segments[1].cut.channels = {1, 1}; }));
  CHECK(refused([](plan::Layout& l) { l.host = 4; }));
  CHECK(refused([](plan::Layout& l) { l.segments[1].cut.rows = {1, 1}, l.segments[1].cut.channels = {1, 1}; }));
}

TEST_CASE("weights are divided evenly among those who compute their filters, few of them stay together") {
  const auto large = chain(3, {96, 8, 8}), small = chain(4, {8, 8, 8});
  const auto homes = plan::make_plan(large, 1, four_tiles(large));
  REQUIRE_MESSAGE(homes, homes.error().message);
  for (int node = 1; node <= 3; ++node)
    for (int p = 0; p < 4; ++p) CHECK(homes->filters(node, p) == geometry::Range{24 * p, 24 * p + 24});
  const auto together = plan::make_plan(small, 1, four_tiles(small));
  REQUIRE_MESSAGE(together, together.error().message);
  std::vector<int> layers(4);
  for (int node = 1; node <= 4; ++node)
    for (int p = 0; p < 4; ++p) {
      const auto filters = together->filters(node, p);
      CHECK((filters.empty() || filters == geometry::Range{0, 8}));
      layers[static_cast<std::size_t>(p)] += !filters.empty();
    }
  CHECK(layers == std::vector<int>{1, 1, 1, 1});
}

TEST_CASE("statistics are merged by everybody, or by an owner of each layer in turn") {
  auto graph = chain(4, {8, 8, 8});
  for (auto& layer : graph.layers) layer.batch_normalize = layer.trainable();
  auto layout = testing::one_cut(graph, {{1}, {1}, {1, 1, 1, 1}, {1}}, {4, 1, 2, 3}, 5);
  for (const bool at_home : {false, true}) {
    layout.merge_at_home = at_home;
    const auto plan = plan::make_plan(graph, 1, layout);
    REQUIRE_MESSAGE(plan, plan.error().message);
    auto homes = std::vector<int>(plan->statistics.begin() + 1, plan->statistics.end());
    std::sort(homes.begin(), homes.end());
    CHECK(homes == (at_home ? std::vector<int>{1, 2, 3, 4} : std::vector<int>(4, plan::kMergedByAll)));
  }
}

TEST_CASE("groups follow their marks, and every plan has the marks it needs") {
  const auto graph = chain(5, {1, 8, 8});
  REQUIRE(graph::validate(graph));
  auto layout = four_tiles(graph);
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
  auto layout = four_tiles(graph);
  layout.segments[0].participants = {1, 2, 3, 4};
  layout.participant_count = 5;
  const auto plan = plan::make_plan(graph, 1, layout);
  REQUIRE(plan);
  CHECK(plan::contributors(*plan)[0] == false);
}

TEST_CASE("validate refuses each way of breaking a plan") {
  const auto graph = random_graph();
  const auto good = plan::make_plan(graph, 2, four_tiles(graph));
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
      {"nodes, the graph has", [](plan::Plan& p) { p.owned.pop_back(); }},
      {"nodes, the graph has", [](plan::Plan& p) { p.made.pop_back(); }},
      {"nodes, the graph has", [](plan::Plan& p) { p.weights.pop_back(); }},
      {"nodes, the graph has", [](plan::Plan& p) { p.statistics.pop_back(); }},
      {"there is no host 4", [](plan::Plan& p) { p.host = 4; }},
      {"there is no host -1", [](plan::Plan& p) { p.host = -1; }},
      {"the boxes of input 0 do not cover it once", [](plan::Plan& p) { p.made[0][1] = p.made[0][0]; }},
      {"the boxes of input 0 do not cover it once", [](plan::Plan& p) { p.made[0].clear(); }},
      {"there is no participant 4 for the statistics", [](plan::Plan& p) { p.statistics.back() = 4; }},
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

TEST_CASE("validate refuses homes of weights that are missing, there twice, or cut through a filter") {
  const auto graph = chain(2, {8, 4, 4});
  const auto good = plan::make_plan(graph, 1, four_tiles(graph));
  REQUIRE(good);
  const auto refusal = [&](std::vector<Box> homes) {
    plan::Plan plan = *good;
    homes.resize(4);
    plan.weights[2] = homes;
    const auto status = plan::validate(plan, graph);
    return status ? std::string() : status.error().message;
  };
  const auto rows = [](geometry::Range filters, geometry::Range channels = {0, 8}) { return Box{filters, channels, {0, 1}, {0, 1}}; };
  CHECK(refusal({rows({0, 5}), {}, rows({5, 8})}).empty());
  const std::string not_once = "the homes of the weights of layer 1 do not cover them once";
  CHECK(refusal({rows({0, 5})}) == not_once);
  CHECK(refusal({rows({0, 5}), rows({4, 8})}) == not_once);
  CHECK(refusal({rows({0, 9})}) == not_once);
  CHECK(refusal({rows({0, 8}, {0, 4}), rows({0, 8}, {4, 8})}) == "weights of layer 1 are cut through a filter");
}

TEST_CASE("make_plan refuses layouts that do not fit") {
  const auto graph = random_graph();
  auto layout = four_tiles(graph);
  layout.segments[0].participants = {0, 1, 2};
  CHECK(plan::make_plan(graph, 1, layout).error().message ==
        fmt::format("a segment up to node {} cut into 4 cells for 3 devices", graph.size()));
  layout = four_tiles(graph);
  layout.segments[0].participants[2] = 4;
  CHECK(plan::make_plan(graph, 1, layout).error().message == "cell 2 of a cut is given to participant 4, which cannot take it");
  layout = four_tiles(graph);
  layout.segments[0].participants[2] = 0;
  CHECK(!plan::make_plan(graph, 1, layout));
  CHECK(!plan::make_plan(graph, 0, four_tiles(graph)));
  layout = four_tiles(graph);
  layout.forward_starts = {1000};
  CHECK(!plan::make_plan(graph, 1, layout));
}

TEST_CASE("plan_from_json refuses what is not a plan for the graph") {
  const auto graph = random_graph();
  const auto good = plan::to_json(*plan::make_plan(graph, 1, four_tiles(graph)));
  CHECK(plan::plan_from_json(good, graph));
  auto json = good;
  json.erase("owned");
  CHECK(plan::plan_from_json(json, graph).error().code == base::ErrorCode::kProtocol);
  for (const char* name : {"made", "weights", "statistics", "host"}) {
    json = good;
    json.erase(name);
    CHECK(plan::plan_from_json(json, graph).error().code == base::ErrorCode::kProtocol);
  }
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
