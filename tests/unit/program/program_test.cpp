// Programs: the checker notices broken ones, compiling is deterministic, and halo arithmetic of a known network.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <numeric>

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
using program::Phase;
using program::Step;
using testing::Rng;

namespace {

// conv 3x3 with batch norm, max-pool 2/1, conv 3x3 with batch norm, conv 3x3 without, on an input whose delta is wanted.
struct Example {
  graph::Graph graph;
  plan::Plan plan;
};

graph::Graph example_graph() {
  graph::Graph graph;
  graph.layers.resize(5);
  for (int node = 0; node < 5; ++node) {
    auto& l = graph.layers[static_cast<std::size_t>(node)];
    l.source = node;  // the range begins above layer 0: its input delta is wanted
    l.out = {4, 8, 8};
    if (node == 0) continue;
    l.inputs = {node - 1};
    l.kind = node == 2 ? graph::LayerKind::kMaxpool : graph::LayerKind::kConvolutional;
    l.kernel = node == 2 ? 2 : 3;
    l.pad = 1;
    l.batch_normalize = node == 1 || node == 3;
    l.activation = node == 2 ? "linear" : "leaky";
  }
  graph.layers.back().delivered = true;
  return graph;
}

// On a 2x2 grid, the host owning nothing.
Example example() {
  Example e{example_graph(), {}};
  e.plan = *plan::make_plan(e.graph, 2, testing::one_cut(e.graph, {{1}, {1}, {1, 1}, {1, 1}}, {1, 2, 3, 4}, 5));
  return e;
}

// On four devices, the host one of them: two layers cut along rows, two along channels.
Example two_segments() {
  Example e{example_graph(), {}};
  plan::Layout layout = testing::one_cut(e.graph, {{1}, {1, 1, 1, 1}, {1}, {1}}, {0, 1, 2, 3}, 4);
  layout.segments.insert(layout.segments.begin(), plan::Segment{3, {{1}, {1}, {1, 1, 1, 1}, {1}}, {3, 0, 1, 2}});
  layout.host = 2;
  layout.single_pass = layout.merge_at_home = true;
  e.plan = *plan::make_plan(e.graph, 2, layout);
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
  const std::vector<double> parts(static_cast<std::size_t>(grid), 1.0);
  std::vector<int> participants(static_cast<std::size_t>(grid * grid));
  std::iota(participants.begin(), participants.end(), 1);
  plan::Layout layout = testing::one_cut(graph, {{1}, {1}, parts, parts}, participants, grid * grid + 1);
  for (int start : starts) layout.forward_starts.push_back(start + 1);  // node 0 is the input
  const auto plan = plan::make_plan(graph, 1, layout);
  REQUIRE(plan);
  const auto regions = program::regions(graph, *plan, program::Mode::kTrain);
  Index elements = 0, computed = 0, owned = 0;
  for (int row = 1; row + 1 < grid; ++row)
    for (int column = 1; column + 1 < grid; ++column) {
      const int tile = row * grid + column + 1;
      for (const auto& group : regions.forward_needs)
        for (const auto& need : group)
          for (const Box& box : need.boxes)  // who does not make an input has none of it, not even its own part
            for (const Box& missing : geometry::subtract(box, plan->box(need.node, tile)))
              if (need.participant == tile) elements += missing.elements();
      for (int node = 1; node < graph.size(); ++node) {
        computed += graph::multiply_adds(graph, node, regions.at(regions.computed, node, tile));
        owned += graph::multiply_adds(graph, node, plan->box(node, tile));
      }
    }
  const int tiles = (grid - 2) * (grid - 2);
  return {static_cast<double>(elements) * 4 / 1000 / tiles, static_cast<double>(computed) / static_cast<double>(owned)};
}

}  // namespace

TEST_CASE("the checker accepts the examples' programs and notices each step that is missing") {
  // Dropping any one step of any participant must show: there is no step too many.
  int dropped = 0;
  for (const Example& e : {example(), two_segments()}) {
    const auto good = program::compile(e.graph, e.plan, program::Mode::kTrain);
    REQUIRE(testing::check_programs(e.graph, e.plan, good).failure == "");
    for (std::size_t p = 0; p < good.programs.size(); ++p)
      for (std::size_t phase = 0; phase < program::kPhases; ++phase)
        for (std::size_t i = 0; i < good.programs[p].phases[phase].size(); ++i) {
          auto broken = good;
          auto& list = broken.programs[p].phases[phase];
          INFO(fmt::format("participant {} {} step {} ({})", p, to_string(static_cast<Phase>(phase)), i, to_string(list[i].op)));
          list.erase(list.begin() + static_cast<std::ptrdiff_t>(i));
          REQUIRE(testing::check_programs(e.graph, e.plan, broken).failure != "");
          ++dropped;
        }
  }
  CHECK(dropped > 400);
}

TEST_CASE("who makes a part of an input makes all of it that it reads") {
  Example e = example();
  REQUIRE(program::check_makers(e.graph, e.plan, program::Mode::kTrain));
  auto& made = e.plan.made[0];
  Box top = made[static_cast<std::size_t>(e.plan.host)], bottom = top;
  top.y.end = bottom.y.begin = top.y.size() / 2;
  made.assign(made.size(), {});
  made[1] = bottom, made[3] = top;  // 1 computes the first rows
  REQUIRE(plan::validate(e.plan, e.graph));
  const auto refused = program::check_makers(e.graph, e.plan, program::Mode::kTrain);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().message.find("input 0") != std::string::npos);
}

TEST_CASE("the checker notices other ways of breaking programs") {
  const Example e = example();
  const auto good = program::compile(e.graph, e.plan, program::Mode::kTrain);
  const auto find = [](program::ProgramSet& set, Phase list, std::function<bool(const Step&)> wanted) -> Step& {
    for (auto& program : set.programs)
      for (Step& step : program.steps(list))
        if (wanted(step)) return step;
    FAIL("no such step");
    return set.programs[0].steps(list).front();
  };
  const auto op = [](Op op) { return [op](const Step& step) { return step.op == op; }; };
  const auto reduces = [](const Step& step) { return step.phase == Phase::kReduce && step.op == Op::kReceive; };
  const std::vector<std::function<void(program::ProgramSet&)>> breaks = {
      [](auto& set) {  // two buffers in one place
        auto& buffers = set.programs[1].buffers;
        const auto in_arena = [](const program::Buffer& b) { return b.storage == program::Storage::kArena; };
        const auto first = std::find_if(buffers.begin(), buffers.end(), in_arena);
        const auto other = std::find_if(first + 1, buffers.end(), [&](const program::Buffer& b) {
          return in_arena(b) && b.first_step <= first->last_step && first->first_step <= b.last_step;
        });
        REQUIRE(other != buffers.end());
        other->offset = first->offset;
      },
      [](auto& set) { set.programs[1].arena_bytes -= program::kBufferAlignment; },  // sizes are rounded up to it
      [](auto& set) { std::swap(set.programs[1].steps(Phase::kForward)[0], set.programs[1].steps(Phase::kForward).back()); },
      [&](auto& set) { find(set, Phase::kLoad, op(Op::kSend)).transfer += 1; },
      [&](auto& set) { find(set, Phase::kLoad, op(Op::kSend)).box.y.end -= 1; },
      [&](auto& set) { find(set, Phase::kBackward, reduces).accumulate = false; },
      [&](auto& set) { find(set, Phase::kBackward, reduces).phase = Phase::kBackward; },
      [&](auto& set) { find(set, Phase::kBackward, reduces).b = -1; },
      [&](auto& set) { find(set, Phase::kBackward, op(Op::kConvolutionWeights)).box.y.end -= 1; },
      [&](auto& set) { find(set, Phase::kUpdate, op(Op::kUpdate)).box.n.end -= 1; },
      [&](auto& set) { find(set, Phase::kShare, op(Op::kReceive)).box.n.end -= 1; },
      [&](auto& set) { find(set, Phase::kShare, [](const Step& step) { return step.op == Op::kSend && step.c >= 0; }).c = -1; },
      [&](auto& set) { std::swap(find(set, Phase::kGather, op(Op::kReceive)).a, find(set, Phase::kGather, op(Op::kReceive)).b); },
      [](auto& set) { set.programs[1].home_filters[1].end -= 1; },
      [](auto& set) { set.programs[2].stored_filters[3].begin += 1; },
  };
  for (std::size_t i = 0; i < breaks.size(); ++i) {
    auto broken = good;
    breaks[i](broken);
    CAPTURE(i);
    CHECK(testing::check_programs(e.graph, e.plan, broken).failure != "");
  }
}

TEST_CASE("one participant's program is the same compiled alone, and another plan or mode gives another fingerprint") {
  Rng rng(testing::seed());
  for (int i = 0; i < 200; ++i) {
    CAPTURE(i);
    const auto graph = testing::random_graph(rng, 8);
    const auto plan = testing::random_free_plan(rng, graph, 2, true);
    const auto set = program::compile(graph, plan, program::Mode::kTrain), test = program::compile(graph, plan, program::Mode::kTest);
    for (int p = 0; p < plan.participants; ++p) {
      const auto& program = set.programs[static_cast<std::size_t>(p)];
      REQUIRE(program::fingerprint(program) == program::fingerprint(program::compile(graph, plan, program::Mode::kTrain, p)));
      REQUIRE(program::fingerprint(program) != program::fingerprint(test.programs[static_cast<std::size_t>(p)]));
    }
  }
  const Example e = example();
  auto other = e.plan;
  std::swap(other.owned[1][1], other.owned[1][2]);
  CHECK(program::fingerprint(program::compile(e.graph, e.plan, program::Mode::kTrain, 1)) !=
        program::fingerprint(program::compile(e.graph, other, program::Mode::kTrain, 1)));
}

TEST_CASE("a large layer's weights have homes of equal size, and its gradients travel in pieces") {
  graph::Graph graph;
  graph.layers.resize(2);
  graph.layers[0].out = {256, 4, 4};
  graph.layers[0].backward = false;
  auto& layer = graph.layers[1];
  layer.kind = graph::LayerKind::kConvolutional;
  layer.inputs = {0};
  layer.kernel = 3, layer.pad = 1;
  layer.out = {512, 4, 4};
  layer.delivered = true;
  const auto plan = *plan::make_plan(graph, 1, testing::one_cut(graph, {{1}, {1}, {1, 1, 1, 1}, {1}}, {1, 2, 3, 4}, 5));
  CHECK(plan.filters(1, 0).empty());
  for (int p = 1; p < 5; ++p) CHECK(plan.filters(1, p).size() == 512 / 4);
  for (const auto& program : program::compile(graph, plan, program::Mode::kTrain).programs) {
    Index sent = 0, messages = 0;
    for (const Step& step : program.steps(Phase::kBackward)) {
      if (step.phase != Phase::kReduce || step.op != Op::kSend) continue;
      CHECK(step.box.elements() <= 1 << 16);
      sent += step.box.elements(), ++messages;
    }
    CHECK(sent == (program.self == 0 ? 0 : 3 * graph.weights(1) / 4));
    CHECK(messages >= sent >> 16);
  }
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
      const auto& program = set.programs[static_cast<std::size_t>(p)];
      Index cells = 0, before = 0, sent = 0;
      std::vector<Box> made;
      for (const Step& step : program.steps(Phase::kForward)) {
        if (step.node != 1) continue;
        if (step.op == Op::kConvolution) {
          for (const Box& other : made) CHECK(geometry::intersect(step.box, other).empty());
          made.push_back(step.box);
          cells += step.box.elements();
        } else if (step.op == Op::kSend && program.buffer(step.a).slot == program::Slot::kStored) {
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
  plan::Layout layout = testing::one_cut(graph, {{1}, {1}, {1, 1, 1}, {1, 1}}, {1, 2, 3, 4, 5, 6}, 7);
  layout.forward_starts = plan::starts_after_shrinking(graph);
  const auto arena = [&](bool recompute) {
    layout.recompute = recompute;
    std::size_t largest = 0;
    for (const auto& program : program::compile(graph, *plan::make_plan(graph, 1, layout), program::Mode::kTrain).programs)
      largest = std::max(largest, program.arena_bytes);
    return static_cast<double>(largest);
  };
  CHECK(arena(true) < 0.8 * arena(false));
}
