// The search for a layout, by made-up costs with a known best and by the simulator's.
#include <doctest/doctest.h>

#include <algorithm>
#include <set>

#include "plan/group_search.hpp"
#include "plan/planner.hpp"
#include "program/compile.hpp"
#include "sim/simulator.hpp"

using namespace tessera;
using doctest::Approx;
using graph::Graph;
using plan::Device;
using plan::LayoutRequest;
using plan::Plan;

namespace {

// Convolutions 3x3 over one image of 16 x 16, layers 0 to `count` - 1.
Graph chain(int count) {
  Graph graph;
  graph.layers.resize(static_cast<std::size_t>(count) + 1);
  graph.layers[0].out = {2, 16, 16};
  graph.layers[0].backward = false;
  for (int node = 1; node <= count; ++node) {
    auto& layer = graph.layers[static_cast<std::size_t>(node)];
    layer.kind = graph::LayerKind::kConvolutional;
    layer.source = node - 1;
    layer.inputs = {node - 1};
    layer.kernel = 3, layer.pad = 1;
    layer.out = {2, 16, 16};
  }
  graph.layers.back().delivered = true;
  return graph;
}

// Workers 1 to `count` of one speed.
std::vector<Device> workers(int count) {
  std::vector<Device> devices;
  for (int p = 1; p <= count; ++p) devices.push_back({p, 1.0});
  return devices;
}

struct Sides {
  std::size_t rows, columns, samples;
  auto operator<=>(const Sides&) const = default;
};

Sides sides(const plan::Layout& layout) {
  const auto& cut = layout.segments.front().cut;
  return {cut.rows.size(), cut.columns.size(), cut.samples.size()};
}

// Nodes that are cut along channels.
geometry::Range channel_nodes(const plan::Layout& layout) {
  geometry::Range nodes{1, 1};
  for (const auto& segment : layout.segments) {
    nodes.end = segment.end;
    if (segment.cut.channels.size() > 1) return nodes;
    nodes.begin = segment.end;
  }
  return {};
}

Sides sides(const Plan& plan) {
  std::set<geometry::Index> rows, columns, samples;
  for (const auto& box : plan.owned.back())
    if (!box.empty()) rows.insert(box.y.begin), columns.insert(box.x.begin), samples.insert(box.n.begin);
  return {rows.size(), columns.size(), samples.size()};
}

plan::Layout choose(const Graph& graph, int batch, const LayoutRequest& request, const std::vector<Device>& devices,
                    const plan::Cost& cost) {
  const auto layout = plan::choose_layout(graph, batch, request, devices, 1 + static_cast<int>(devices.size()), cost);
  REQUIRE_MESSAGE(layout, layout.error().message);
  return *layout;
}

std::string refusal(const LayoutRequest& request, const std::vector<Device>& devices, const plan::Cost& cost, int batch = 2) {
  const auto layout = plan::choose_layout(chain(3), batch, request, devices, 1 + static_cast<int>(devices.size()), cost);
  REQUIRE_FALSE(layout);
  return layout.error().message;
}

const plan::Cost kAnything = [](const Plan&) { return 1.0; };
const plan::Cost kNothing = [](const Plan&) { return plan::kImpossible; };

LayoutRequest grid(int rows, int columns, int samples = 1) {
  LayoutRequest request;
  request.rows = rows, request.columns = columns, request.samples = samples;
  return request;
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("a grid that is asked for is taken, whatever it costs") {
  const auto cost = [](const Plan& plan) { return sides(plan) == Sides{1, 6, 1} ? 1.0 : 9.0; };
  CHECK(sides(choose(chain(3), 2, grid(3, 2), workers(6), cost)) == Sides{3, 2, 1});
  CHECK(sides(choose(chain(3), 2, grid(3, 1, 2), workers(6), cost)) == Sides{3, 1, 2});
  LayoutRequest closed = grid(2, 1);
  closed.forward_starts = std::vector<int>{1};
  closed.backward_ends = std::vector<int>{3};
  CHECK(sides(choose(chain(3), 1, closed, workers(2), kNothing)) == Sides{2, 1, 1});
}

TEST_CASE("requests that cannot be met are errors that say what can be done") {
  const std::string tiles = refusal(grid(3, 2), workers(4), kAnything);
  CHECK_MESSAGE(has(tiles, "grid 3x2 has 6 tiles for 4 workers; use grid = auto or 1x4 or 4x1"), tiles);
  CHECK(has(refusal(grid(0, 2), workers(4), kAnything), "grid 0x2 is impossible; use grid = auto"));
  CHECK(has(refusal(grid(1, 1, 4), workers(4), kAnything), "grid 1x1x4 cuts a batch into 4 parts, but it has 2 samples"));
  CHECK(has(refusal({}, {{1, 1.0}, {2, 0.0}}, kAnything), "participant 2 has the impossible speed 0"));
  CHECK(has(refusal({}, workers(2), kNothing), "no way was found to cut layers 0 to 2 over 2 devices"));
  LayoutRequest outside;
  outside.forward_starts = std::vector<int>{1, 9};
  CHECK(has(refusal(outside, workers(2), kAnything), "outside the range"));
}

TEST_CASE("the cheapest of all grids is found") {
  std::vector<Sides> all;
  for (std::size_t samples = 1; samples <= 4; ++samples)
    for (std::size_t rows = 1; rows <= 12; ++rows)
      if (12 % samples == 0 && 12 / samples % rows == 0) all.push_back({rows, 12 / samples / rows, samples});
  REQUIRE(all.size() == 6 + 4 + 3 + 2);
  for (const Sides& best : all) {
    CAPTURE(best.rows);
    CAPTURE(best.columns);
    CAPTURE(best.samples);
    int looked_at = 0;
    const auto layout = choose(chain(3), 4, {}, workers(12), [&](const Plan& plan) {
      ++looked_at;
      return sides(plan) == best ? 1.0 : 2.0;
    });
    CHECK(sides(layout) == best);
    CHECK(looked_at <= plan::kMostEvaluations);
  }
}

TEST_CASE("samples are only cut apart where it clearly pays") {
  const auto with_samples_cut = [](double seconds) {
    return [seconds](const Plan& plan) { return sides(plan).samples > 1 ? seconds : 1.0; };
  };
  CHECK(sides(choose(chain(2), 2, {}, workers(2), with_samples_cut(0.995))).samples == 1);
  CHECK(sides(choose(chain(2), 2, {}, workers(2), with_samples_cut(0.9))).samples == 2);
}

TEST_CASE("shares follow speeds") {
  const auto equal = choose(chain(2), 1, grid(1, 4), workers(4), kAnything);
  const auto& columns = equal.segments.front().cut.columns;
  for (const double share : columns) CHECK(share == Approx(columns[0]));

  const Graph graph = chain(2);
  const auto unequal = choose(graph, 1, grid(1, 2), {{1, 1.0}, {2, 3.0}}, kAnything);
  const auto plan = plan::make_plan(graph, 1, unequal);
  REQUIRE_MESSAGE(plan, plan.error().message);
  CHECK(plan->box(2, 0).empty());
  CHECK(plan->box(2, 1).x.size() == 4);
  CHECK(plan->box(2, 2).x.size() == 12);
}

TEST_CASE("groups that are given are kept, the others are chosen") {
  // Each group costs, so the chosen direction ends with one group.
  const auto cost = [](const Plan& plan) { return 1.0 * static_cast<double>(plan.forward_starts.size() + plan.backward_ends.size()); };
  LayoutRequest request;
  request.forward_starts = std::vector<int>{1, 3};
  auto layout = choose(chain(5), 1, request, workers(2), cost);
  CHECK(layout.forward_starts == std::vector<int>{1, 3});
  CHECK(layout.backward_ends == std::vector<int>{5});
  request = {};
  request.backward_ends = std::vector<int>{2, 4, 5};
  layout = choose(chain(5), 1, request, workers(2), cost);
  CHECK(layout.forward_starts == std::vector<int>{1});
  CHECK(layout.backward_ends == std::vector<int>{2, 4, 5});
}

TEST_CASE("insides of groups are computed again when that is asked for, or when nothing fits otherwise") {
  using Recompute = LayoutRequest::Recompute;
  const plan::Cost only_again = [](const Plan& plan) { return plan.recompute ? 2.0 : plan::kImpossible; };
  const plan::Cost either = [](const Plan& plan) { return plan.recompute ? 2.0 : 1.0; };
  LayoutRequest request;
  const auto recomputes = [&](Recompute choice, const plan::Cost& cost) {
    request.recompute = choice;
    return choose(chain(3), 2, request, workers(2), cost).recompute;
  };
  CHECK(recomputes(Recompute::kOn, either));
  CHECK_FALSE(recomputes(Recompute::kOff, either));
  CHECK_FALSE(recomputes(Recompute::kAuto, either));
  CHECK(recomputes(Recompute::kAuto, only_again));
  request.recompute = Recompute::kOff;
  CHECK(has(refusal(request, workers(2), only_again), "no way was found"));
  request.recompute = Recompute::kAuto;
  CHECK(has(refusal(request, workers(2), kNothing), "no way was found"));
}

TEST_CASE("boundaries are computed first when that is asked for, or when it is faster") {
  using BoundaryFirst = LayoutRequest::BoundaryFirst;
  const plan::Cost faster = [](const Plan& plan) { return plan.boundary_first ? 0.9 : 1.0; };
  const plan::Cost as_fast = [](const Plan& plan) { return plan.boundary_first ? 0.999 : 1.0; };
  LayoutRequest request;
  const auto first = [&](BoundaryFirst choice, const plan::Cost& cost, int count = 2) {
    request.boundary_first = choice;
    return choose(chain(3), 2, request, workers(count), cost).boundary_first;
  };
  CHECK(first(BoundaryFirst::kOn, as_fast));
  CHECK_FALSE(first(BoundaryFirst::kOff, faster));
  CHECK(first(BoundaryFirst::kAuto, faster));
  CHECK_FALSE(first(BoundaryFirst::kAuto, as_fast));
  CHECK_FALSE(first(BoundaryFirst::kAuto, faster, 1));  // nobody waits
}

TEST_CASE("statistics of a layer are merged by one participant where that is faster") {
  Graph graph = chain(3);
  for (auto& layer : graph.layers) layer.batch_normalize = layer.trainable();
  const auto at_home = [&](double seconds, int count) {
    const plan::Cost cost = [seconds](const Plan& plan) { return plan.statistics.back() == plan::kMergedByAll ? 1.0 : seconds; };
    return choose(graph, 2, {}, workers(count), cost).merge_at_home;
  };
  CHECK(at_home(0.9, 3));
  CHECK_FALSE(at_home(0.999, 3));
  CHECK_FALSE(at_home(0.9, 2));  // as many messages
}

TEST_CASE("whoever is named is the host, with or without a share") {
  for (const int host : {0, 2}) {
    LayoutRequest request;
    request.host = host;
    const Graph graph = chain(3);
    const auto plan = plan::make_plan(graph, 2, choose(graph, 2, request, workers(3), kAnything));
    REQUIRE_MESSAGE(plan, plan.error().message);
    CHECK(plan->host == host);
    CHECK(plan->source(0, host) == geometry::Box::whole(2, graph[0].out));
    CHECK(plan->box(3, host).empty() == (host == 0));
  }
}

TEST_CASE("the descent over single cuts reaches the best groups") {
  const std::vector<int> starts = {1, 3, 4, 7}, ends = {2, 6, 8};
  const auto away = [](const std::vector<int>& a, const std::vector<int>& b) {
    std::vector<int> difference;
    std::set_symmetric_difference(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(difference));
    return static_cast<double>(difference.size());
  };
  const auto layout = choose(chain(8), 1, grid(2, 1), workers(2),
                             [&](const Plan& plan) { return 1 + away(plan.forward_starts, starts) + away(plan.backward_ends, ends); });
  CHECK(layout.forward_starts == starts);
  CHECK(layout.backward_ends == ends);
}

TEST_CASE("simulated, what is chosen is valid, never worse than each or one, and the same every time") {
  const Graph graph = chain(5);
  std::vector<int> each(5);
  for (int node = 1; node <= 5; ++node) each[static_cast<std::size_t>(node) - 1] = node;
  for (const double delay : {1e-6, 3e-4, 1e-1}) {
    CAPTURE(delay);
    const std::vector<sim::DeviceProfile> profiles(5, {3.5e7, 2e7, 1e6, delay, 0});
    const auto cost = [&](const Plan& plan) {
      return sim::simulate(graph, program::compile(graph, plan, program::Mode::kTrain), profiles).seconds(1);
    };
    const auto seconds = [&](const plan::Layout& layout) {
      const auto plan = plan::make_plan(graph, 2, layout);
      REQUIRE_MESSAGE(plan, plan.error().message);
      return cost(*plan);
    };
    const auto layout = choose(graph, 2, grid(2, 2), workers(4), cost);
    plan::Layout other = layout;
    other.forward_starts = other.backward_ends = each;
    CHECK(seconds(layout) <= seconds(other));
    other.forward_starts = {1}, other.backward_ends = {5};
    CHECK(seconds(layout) <= seconds(other));

    const auto again = choose(graph, 2, grid(2, 2), workers(4), cost);
    CHECK(again.forward_starts == layout.forward_starts);
    CHECK(again.backward_ends == layout.backward_ends);
    REQUIRE(again.segments.size() == layout.segments.size());
    for (std::size_t i = 0; i < layout.segments.size(); ++i) {
      CHECK(again.segments[i].cut == layout.segments[i].cut);
      CHECK(again.segments[i].participants == layout.segments[i].participants);
    }
  }
}

TEST_CASE("layers are cut along channels where the cost says so, and nowhere when that is not wanted") {
  using Channels = LayoutRequest::Channels;
  const auto by_channels = [](const Plan& plan, std::size_t node) { return plan.owned[node][1].c.size() < 2; };
  // Cheap from layer 3 on, and dear in the last one.
  const plan::Cost cost = [&](const Plan& plan) {
    double seconds = 10;
    for (std::size_t node = 1; node < plan.owned.size(); ++node) seconds += by_channels(plan, node) == (node >= 4 && node < 6) ? 0 : 1;
    return seconds;
  };
  LayoutRequest request;
  const auto chosen = [&](int count = 2) { return channel_nodes(choose(chain(6), 2, request, workers(count), cost)); };
  CHECK(chosen().empty());
  request.channels = Channels::kAuto;
  CHECK(chosen() == geometry::Range{4, 6});
  CHECK(chosen(1).empty());
  request.channels = Channels::kNodes, request.channel_nodes = {{2, 3}};
  CHECK(chosen() == geometry::Range{2, 3});
  request.rows = 2, request.columns = 1;
  CHECK(chosen() == geometry::Range{2, 3});
  request.channels = Channels::kAuto;
  CHECK(chosen().empty());  // the grid that was asked for is meant for all layers
}

TEST_CASE("single layers, and groups of devices, are cut along channels where the cost says so") {
  using Layers = std::set<std::size_t>;
  const auto by_channels = [](const Plan& plan) {
    Layers layers;
    for (std::size_t node = 1; node < plan.owned.size(); ++node)
      if (plan.owned[node][1].c.size() < 2) layers.insert(node);
    return layers;
  };
  const auto samples = [](const Plan& plan, std::size_t node) { return plan.owned[node][1].n.size(); };
  const Layers wanted = {3, 5};
  const plan::Cost cost = [&](const Plan& plan) {
    const Layers layers = by_channels(plan);
    double seconds = 10;
    for (std::size_t node = 1; node < plan.owned.size(); ++node) seconds += layers.contains(node) == wanted.contains(node) ? 0 : 1;
    return seconds + static_cast<double>(layers.contains(5) ? samples(plan, 5) : 0) / 10;  // rather in two groups
  };
  LayoutRequest request;
  request.channels = LayoutRequest::Channels::kAuto;
  const auto layout = plan::choose_layout(chain(6), 4, request, workers(4), 5, cost);
  REQUIRE_MESSAGE(layout, layout.error().message);
  const auto plan = plan::make_plan(chain(6), 4, *layout);
  REQUIRE_MESSAGE(plan, plan.error().message);
  CHECK(by_channels(*plan) == wanted);
  CHECK(samples(*plan, 5) == 2);
}

TEST_CASE("fewer devices are only named when they are clearly faster, and then the fastest") {
  const std::vector<Device> devices = {{1, 1.0}, {2, 4.0}, {3, 2.0}, {4, 3.0}};
  std::set<std::vector<int>> seen;
  const auto cost = [&](const Plan& plan, const std::vector<int>& members) {
    REQUIRE(plan.participants == static_cast<int>(members.size()));
    seen.insert(members);
    return std::vector<double>{0, 10, 5, 8}[members.size() - 1];
  };
  // A request for a grid of all devices does not stand in the way.
  const auto fewer = plan::faster_with_fewer(chain(3), 1, grid(2, 2), devices, 9, cost);
  REQUIRE(fewer.has_value());
  CHECK(fewer->devices == 2);
  CHECK(fewer->seconds == 5);
  CHECK(seen == std::set<std::vector<int>>{{0, 2}, {0, 2, 4}, {0, 2, 4, 3}});
  CHECK_FALSE(plan::faster_with_fewer(chain(3), 1, grid(2, 2), devices, 5.2, cost).has_value());  // not by a twentieth
  CHECK_FALSE(plan::faster_with_fewer(chain(3), 1, {}, workers(1), 9, cost).has_value());
  // A host that computes is the first member.
  seen.clear();
  LayoutRequest request;
  request.host = 4;
  plan::faster_with_fewer(chain(3), 1, request, devices, 9, [&](const Plan& plan, const std::vector<int>& members) {
    CHECK(plan.host == 0);
    seen.insert(members);
    return 1.0;
  });
  CHECK(seen == std::set<std::vector<int>>{{4, 2}, {4, 2, 3}});
}
