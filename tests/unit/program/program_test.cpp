// Programs: the checker notices broken ones, compiling is deterministic, and halo arithmetic of a known network.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <functional>

#include "graph/footprint.hpp"
#include "plan/group_search.hpp"
#include "program/compile.hpp"
#include "program/regions.hpp"
#include "tests/support/program_check.hpp"
#include "tests/support/random_graph.hpp"
#include "tests/support/seed.hpp"

using namespace tessera;
using geometry::Box;
using geometry::Index;
using program::Op;
using program::Step;
using testing::Rng;

namespace {

// conv 3x3 with batch norm, max-pool 2/1, conv 3x3 with batch norm, on a 2x2 grid, the coordinator owning nothing.
struct Example {
  graph::Graph graph;
  plan::Plan plan;
};

Example example() {
  Example e;
  e.graph.layers.resize(4);
  for (int node = 0; node < 4; ++node) {
    auto& l = e.graph.layers[static_cast<std::size_t>(node)];
    l.source = node;  // the range begins above layer 0: its input delta is wanted
    l.out = {2, 8, 8};
    if (node == 0) continue;
    l.inputs = {node - 1};
    l.kind = node == 2 ? graph::LayerKind::kMaxpool : graph::LayerKind::kConvolutional;
    l.kernel = node == 2 ? 2 : 3;
    l.pad = 1;
    l.batch_normalize = node != 2;
    l.activation = node == 2 ? "linear" : "leaky";
  }
  e.graph.layers.back().delivered = true;
  e.plan = *plan::make_plan(e.graph, 2, {{{1}, {1, 1}, {1, 1}}, {1, 2, 3, 4}, 5, {}, {}, {}});
  return e;
}

// The first 16 layers of YOLOv2 with an image of the given size.
graph::Graph yolov2_front(Index rows, Index columns) {
  graph::Graph graph;
  graph::Layer input;
  input.out = {3, rows, columns};
  input.backward = false;
  graph.layers.push_back(input);
  for (const int filters : {32, 0, 64, 0, 128, -64, 128, 0, 256, -128, 256, 0, 512, -256, 512, -256}) {  // 0: pool, negative: 1x1
    graph::Layer l;
    const auto& in = graph.layers.back().out;
    l.inputs = {graph.size() - 1};
    l.source = graph.size() - 1;
    l.kind = filters == 0 ? graph::LayerKind::kMaxpool : graph::LayerKind::kConvolutional;
    l.kernel = filters == 0 ? 2 : filters < 0 ? 1 : 3;
    l.stride = filters == 0 ? 2 : 1;
    l.pad = filters < 0 ? 0 : 1;
    l.out = filters == 0 ? geometry::Shape{in.c, in.y / 2, in.x / 2} : geometry::Shape{std::abs(filters), in.y, in.x};
    graph.layers.push_back(l);
  }
  graph.layers.back().delivered = true;
  return graph;
}

struct Halo {
  double kilobytes = 0;  // fetched by one tile with neighbours on all sides, per image
  double factor = 0;     // its multiply-adds against those of its own boxes
};

// The mean over all tiles of a grid over 608x608 that have neighbours on every side.
Halo inner_halo(Index image, int grid, const std::vector<int>& starts) {
  const auto graph = yolov2_front(image, image);
  REQUIRE(graph::validate(graph));
  plan::Layout layout;
  layout.grid.rows = layout.grid.columns = std::vector<double>(static_cast<std::size_t>(grid), 1.0);
  for (int cell = 0; cell < grid * grid; ++cell) layout.participants.push_back(cell + 1);
  layout.participant_count = grid * grid + 1;
  for (int start : starts) layout.forward_starts.push_back(start + 1);  // node 0 is the input
  const auto plan = plan::make_plan(graph, 1, layout);
  REQUIRE(plan);
  const auto regions = program::regions(graph, *plan, program::Mode::kTrain);
  Index elements = 0, computed = 0, owned = 0;
  for (int row = 1; row + 1 < grid; ++row)
    for (int column = 1; column + 1 < grid; ++column) {
      const int tile = row * grid + column + 1;
      for (const auto& group : regions.forward_fetches)
        for (const auto& fetch : group)
          if (fetch.to == tile)
            for (const Box& box : geometry::subtract(fetch.box, plan->box(fetch.node, tile))) elements += box.elements();
      for (int node = 1; node < graph.size(); ++node) {
        computed += graph::multiply_adds(graph, node, regions.at(regions.computed, node, tile));
        owned += graph::multiply_adds(graph, node, plan->box(node, tile));
      }
    }
  const int tiles = (grid - 2) * (grid - 2);
  return {static_cast<double>(elements) * 4 / 1000 / tiles, static_cast<double>(computed) / static_cast<double>(owned)};
}

}  // namespace

TEST_CASE("the checker accepts the example's programs and notices each way of breaking them") {
  const Example e = example();
  const auto good = program::compile(e.graph, e.plan, program::Mode::kTrain);
  REQUIRE(testing::check_programs(e.graph, e.plan, good).failure == "");
  // Dropping any one step of any participant must show: there is no step too many.
  int dropped = 0;
  for (std::size_t p = 0; p < good.programs.size(); ++p)
    for (const bool backward : {false, true}) {
      const auto& steps = backward ? good.programs[p].backward : good.programs[p].forward;
      for (std::size_t i = 0; i < steps.size(); ++i) {
        auto broken = good;
        auto& list = backward ? broken.programs[p].backward : broken.programs[p].forward;
        const Op op = list[i].op;
        list.erase(list.begin() + static_cast<std::ptrdiff_t>(i));
        if (op == Op::kMergeMoments && p == 0) continue;  // a participant without boxes keeps only rolling averages with it
        INFO(fmt::format("participant {} {} step {} ({})", p, backward ? "backward" : "forward", i, to_string(op)));
        REQUIRE(testing::check_programs(e.graph, e.plan, broken).failure != "");
        ++dropped;
      }
    }
  CHECK(dropped > 100);
  const std::vector<std::function<void(program::ProgramSet&)>> breaks = {
      [](auto& set) { set.programs[1].buffers[0].offset = set.programs[1].buffers[1].offset; },  // overlap
      [](auto& set) { set.programs[1].arena_bytes -= program::kBufferAlignment; },               // sizes are rounded up to it
      [](auto& set) { std::swap(set.programs[1].forward[0], set.programs[1].forward.back()); },
      [](auto& set) { set.programs[0].forward[0].transfer = set.programs[0].forward[1].transfer; },
      [](auto& set) { set.programs[0].forward[0].box.y.end -= 1; },
  };
  for (std::size_t i = 0; i < breaks.size(); ++i) {
    auto broken = good;
    breaks[i](broken);
    CAPTURE(i);
    CHECK(testing::check_programs(e.graph, e.plan, broken).failure != "");
  }
}

TEST_CASE("compiling twice gives the same fingerprint, another plan another one") {
  Rng rng(testing::seed());
  for (int i = 0; i < 200; ++i) {
    CAPTURE(i);
    const auto graph = testing::random_graph(rng, 8);
    const auto plan = testing::random_free_plan(rng, graph, 2);
    const auto set = program::compile(graph, plan, program::Mode::kTrain);
    REQUIRE(program::fingerprint(set) == program::fingerprint(program::compile(graph, plan, program::Mode::kTrain)));
    REQUIRE(program::fingerprint(set) != program::fingerprint(program::compile(graph, plan, program::Mode::kTest)));
  }
  const Example e = example();
  auto other = e.plan;
  std::swap(other.owned[1][1], other.owned[1][2]);
  CHECK(program::fingerprint(program::compile(e.graph, e.plan, program::Mode::kTrain)) !=
        program::fingerprint(program::compile(e.graph, other, program::Mode::kTrain)));
}

TEST_CASE("halos of YOLOv2's first 16 layers at 608x608 are those computed by hand") {
  std::vector<int> every;
  for (int i = 0; i < 16; ++i) every.push_back(i);
  struct Row {
    std::vector<int> starts;
    double kilobytes, factor;
  };
  // A tile of a 2x2 grid as if it had neighbours on every side: the middle one of 3x3 such tiles.
  for (const Row& row :
       std::vector<Row>{{every, 574, 1.0}, {{0, 4, 8, 12}, 540, 1.056}, {{0, 8, 10, 12, 14}, 490, 1.025}, {{0}, 1028, 1.53}}) {
    const Halo h = inner_halo(3 * 304, 3, row.starts);
    CAPTURE(row.starts.size());
    CHECK(h.kilobytes == doctest::Approx(row.kilobytes).epsilon(0.001));
    CHECK(h.factor == doctest::Approx(row.factor).epsilon(0.001));
  }
  // 4x4: 38 does not divide by 4, so tiles differ and pools' windows cross cuts; the figures are for the mean size.
  for (const Row& row :
       std::vector<Row>{{every, 309, 1.0}, {{0, 4, 8, 12}, 298, 1.11}, {{0, 8, 10, 12, 14}, 266, 1.05}, {{0}, 620, 2.12}}) {
    const Halo h = inner_halo(608, 4, row.starts);
    CAPTURE(row.starts.size());
    CHECK(h.kilobytes == doctest::Approx(row.kilobytes).epsilon(0.05));
    CHECK(h.factor == doctest::Approx(row.factor).epsilon(0.03));
  }
}

TEST_CASE("what neighbours fetch is computed and on its way before the rest of a convolution is computed") {
  Example e = example();
  e.plan.boundary_first = true;
  for (const program::Mode mode : {program::Mode::kTrain, program::Mode::kTest}) {
    const auto set = program::compile(e.graph, e.plan, mode);
    for (int p = 1; p < e.plan.participants; ++p) {
      CAPTURE(p);
      const auto& steps = set.programs[static_cast<std::size_t>(p)].forward;
      Index cells = 0, before = 0, sent = 0;
      std::vector<Box> made;
      for (const Step& step : steps) {
        if (step.node != 1) continue;
        if (step.op == Op::kConvolution) {
          for (const Box& other : made) CHECK(geometry::intersect(step.box, other).empty());
          made.push_back(step.box);
          cells += step.box.elements();
        } else if (step.op == Op::kSend) {
          CHECK(geometry::subtract(step.box, made).empty());
          before = cells;
          ++sent;
        }
      }
      // The pool looks one cell to the right and below: worker 4's tile is at that corner, and waits for nothing of others.
      const Index all = e.plan.box(1, p).elements();
      CHECK(cells == all);
      CHECK((sent > 0) == (p != 1));
      if (sent > 0) CHECK(2 * before < all);
    }
  }
}

TEST_CASE("computing insides of groups again takes less than four fifths of the memory of YOLOv2's first layers") {
  graph::Graph graph = yolov2_front(608, 608);
  graph.layers.back().delivered = true;
  for (auto& layer : graph.layers) layer.batch_normalize = layer.kind == graph::LayerKind::kConvolutional;
  plan::Layout layout{{{1}, {1, 1, 1}, {1, 1}}, {1, 2, 3, 4, 5, 6}, 7, plan::starts_after_shrinking(graph), {}, {}};
  const auto arena = [&](bool recompute) {
    layout.recompute = recompute;
    std::size_t largest = 0;
    for (const auto& program : program::compile(graph, *plan::make_plan(graph, 1, layout), program::Mode::kTrain).programs)
      largest = std::max(largest, program.arena_bytes);
    return static_cast<double>(largest);
  };
  CHECK(arena(true) < 0.8 * arena(false));
}
