// Graphs: JSON, what validate() refuses, and which uses of a tensor count in back-propagation.
#include <doctest/doctest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "graph/graph.hpp"
#include "tests/support/random_graph.hpp"
#include "tests/support/seed.hpp"

using namespace tessera;
using graph::Graph;
using graph::Layer;
using graph::LayerKind;
using testing::Rng;

namespace {

Layer layer(LayerKind kind, std::vector<int> inputs, geometry::Shape out, int kernel = 1, int stride = 1, int pad = 0) {
  Layer l;
  l.kind = kind;
  l.inputs = std::move(inputs);
  l.out = out;
  l.kernel = kernel, l.stride = stride, l.pad = pad;
  return l;
}

// input, conv 3x3, pool 2/2, conv 1x1, shortcut, upsample, route, reorg
Graph example() {
  Graph g;
  g.layers = {layer(LayerKind::kInput, {}, {3, 8, 8}),
              layer(LayerKind::kConvolutional, {0}, {4, 8, 8}, 3, 1, 1),
              layer(LayerKind::kMaxpool, {1}, {4, 4, 4}, 2, 2, 1),
              layer(LayerKind::kConvolutional, {2}, {4, 4, 4}, 1),
              layer(LayerKind::kShortcut, {3, 2}, {4, 4, 4}),
              layer(LayerKind::kUpsample, {4}, {4, 8, 8}, 1, 2),
              layer(LayerKind::kRoute, {5, 1}, {8, 8, 8}),
              layer(LayerKind::kReorg, {6}, {32, 4, 4}, 1, 2)};
  for (int node = 0; node < g.size(); ++node) g.layers[static_cast<std::size_t>(node)].source = node - 1;
  g.layers.back().delivered = true;
  return g;
}

Layer& at(Graph& g, std::size_t node) { return g.layers[node]; }

}  // namespace

TEST_CASE("graph JSON comes back the same") {
  Rng rng(testing::seed());
  for (int i = 0; i < 300; ++i) {
    CAPTURE(i);
    const Graph before = testing::random_graph(rng, 9);
    const auto json = graph::to_json(before);
    const auto after = graph::graph_from_json(nlohmann::json::parse(json.dump()));
    REQUIRE_MESSAGE(after, after.error().message);
    REQUIRE(graph::to_json(*after) == json);
    REQUIRE(testing::describe(*after) == testing::describe(before));
  }
}

TEST_CASE("validate accepts the example and refuses each way of breaking it, naming the layer") {
  REQUIRE(graph::validate(example()));
  struct Break {
    const char* expected;
    std::function<void(Graph&)> apply;
  };
  const std::vector<Break> breaks = {
      {"needs an input", [](Graph& g) { g.layers.clear(); }},
      {"needs an input", [](Graph& g) { g.layers.resize(1); }},
      {"layer 0 (convolutional, node 1): impossible shape", [](Graph& g) { at(g, 1).out.y = 0; }},
      {"impossible shape", [](Graph& g) { at(g, 1).out.c = geometry::Index{1} << 40; }},
      {"impossible size", [](Graph& g) { at(g, 1).kernel = 0; }},
      {"impossible size", [](Graph& g) { at(g, 1).stride = -1; }},
      {"impossible size", [](Graph& g) { at(g, 1).pad = -1; }},
      {"inputs must come first",
       [](Graph& g) {
         at(g, 3) = layer(LayerKind::kInput, {}, {4, 4, 4});
       }},
      {"2 inputs",
       [](Graph& g) {
         at(g, 1).inputs = {0, 0};
       }},
      {"1 inputs", [](Graph& g) { at(g, 4).inputs = {3}; }},
      {"0 inputs", [](Graph& g) { at(g, 6).inputs = {}; }},
      {"does not come before it", [](Graph& g) { at(g, 3).inputs = {3}; }},
      {"does not come before it", [](Graph& g) { at(g, 3).inputs = {-1}; }},
      {"does not come before it", [](Graph& g) { at(g, 3).inputs = {1000000}; }},
      {"does not follow from its input", [](Graph& g) { at(g, 1).out.x = 7; }},
      {"4 channels from 3", [](Graph& g) { at(g, 2).inputs = {0}; }},
      {"size 17 is larger than 15", [](Graph& g) { at(g, 2).kernel = 17; }},
      {"lies outside its input", [](Graph& g) { at(g, 2).stride = 1, at(g, 2).pad = 9, at(g, 2).out.y = at(g, 2).out.x = 16; }},
      {"its output differs in shape", [](Graph& g) { at(g, 4).out.c = 5; }},
      {"maps of 8x8 and 8x4 do not fit together",
       [](Graph& g) {
         g.layers = {layer(LayerKind::kInput, {}, {4, 8, 8}), layer(LayerKind::kInput, {}, {4, 4, 8}),
                     layer(LayerKind::kShortcut, {1, 0}, {4, 4, 8})};
       }},
      {"does not follow from its input", [](Graph& g) { at(g, 5).out.x = 9; }},
      {"joins maps of different size",
       [](Graph& g) {
         at(g, 6).inputs = {5, 2};
       }},
      {"9 channels, its inputs have 8", [](Graph& g) { at(g, 6).out.c = 9; }},
      {"is not divisible by its stride 3", [](Graph& g) { at(g, 7).stride = 3; }},
      {"does not follow from its input", [](Graph& g) { at(g, 7).out.c = 31; }},
  };
  for (const Break& b : breaks) {
    Graph g = example();
    b.apply(g);
    const auto status = graph::validate(g);
    CAPTURE(b.expected);
    REQUIRE(!status);
    CAPTURE(status.error().message);
    CHECK(status.error().message.find(b.expected) != std::string::npos);
    CHECK(status.error().message.find('\n') == std::string::npos);
  }
}

TEST_CASE("graph_from_json refuses what is not a graph") {
  const auto good = graph::to_json(example());
  CHECK(graph::graph_from_json(good));
  auto json = good;
  json["layers"][1]["kind"] = "deconvolutional";
  CHECK(graph::graph_from_json(json).error().message == "unknown layer kind 'deconvolutional'");
  json = good;
  json["layers"][1].erase("stride");
  CHECK(graph::graph_from_json(json).error().code == base::ErrorCode::kProtocol);
  json = good;
  json["layers"][1]["out"] = "big";
  CHECK(graph::graph_from_json(json).error().code == base::ErrorCode::kProtocol);
  json = good;
  json["layers"][2]["out"] = {4, 3, 4};
  CHECK(graph::graph_from_json(json).error().code == base::ErrorCode::kInvalidArgument);
  CHECK(!graph::graph_from_json(nlohmann::json::array()));
}

TEST_CASE("a 1x1 convolution and a reorg overwrite what later layers added to a delta") {
  // Node 1 is read by 2 (3x3), 3 (1x1), 4 (shortcut with 1) and delivered.
  Graph g;
  g.layers = {layer(LayerKind::kInput, {}, {4, 8, 8}),
              layer(LayerKind::kConvolutional, {0}, {4, 8, 8}, 3, 1, 1),
              layer(LayerKind::kConvolutional, {1}, {4, 8, 8}, 3, 1, 1),
              layer(LayerKind::kConvolutional, {1}, {4, 8, 8}, 1),
              layer(LayerKind::kShortcut, {3, 1}, {4, 8, 8}),
              layer(LayerKind::kReorg, {4}, {16, 4, 4}, 1, 2)};
  at(g, 1).delivered = at(g, 4).delivered = true;
  REQUIRE(graph::validate(g));
  const auto uses = graph::uses(g);
  const auto one = graph::delta_sources(g, uses[1], 1);
  CHECK(!one.external);
  REQUIRE(one.uses.size() == 2);  // the shortcut's and the outside's parts are lost
  CHECK(one.uses[0].layer == 3);
  CHECK(one.uses[1].layer == 2);
  const auto four = graph::delta_sources(g, uses[4], 4);
  CHECK(!four.external);
  REQUIRE(four.uses.size() == 1);
  const auto input = graph::delta_sources(g, uses[0], 0);
  CHECK(!input.overwrites_external);
  // Below a stopbackward nothing is added.
  at(g, 3).backward = false;
  const auto frozen = graph::delta_sources(g, uses[1], 1);
  CHECK(frozen.external);
  REQUIRE(frozen.uses.size() == 2);
  CHECK(frozen.uses[0].layer == 4);
  CHECK(frozen.uses[0].input == 1);
}
