#include "plan/planner.hpp"

#include <algorithm>
#include <numeric>

#include "base/check.hpp"
#include "plan/group_search.hpp"

namespace tessera::plan {

using base::ErrorCode;
using graph::Graph;

namespace {

// Cutting samples apart leaves every device with whole maps in memory: only where it pays.
constexpr double kSampleCutGain = 0.99;
constexpr double kFewerGain = 0.95;
// What the simulator cannot tell apart.
constexpr double kEquallyGood = 0.995;
// Grids whose groups are searched for, out of those that were looked at.
constexpr std::size_t kGridsSearched = 2;
constexpr int kEvaluationsForFewer = 40;
constexpr int kEvaluationsForChannels = 80;
// Before the best layer to begin with: pooling and the like, which pay with what comes before them.
constexpr int kLayersLookedFurther = 6;

struct Grid {
  int rows = 1, columns = 1, samples = 1;
  int cells() const { return rows * columns * samples; }
};

std::string to_string(const Grid& grid) {
  return grid.samples == 1 ? fmt::format("{}x{}", grid.rows, grid.columns) : fmt::format("{}x{}x{}", grid.rows, grid.columns, grid.samples);
}

// All grids of `cells`, fewest cuts along samples first.
std::vector<Grid> factorisations(int cells, Index most_samples) {
  std::vector<Grid> grids;
  for (int samples = 1; samples <= cells && samples <= most_samples; ++samples)
    for (int rows = 1; rows <= cells; ++rows)
      if (cells % samples == 0 && cells / samples % rows == 0) grids.push_back({rows, cells / samples / rows, samples});
  return grids;
}

// Those in which every device has a part of some map.
std::vector<Grid> useful(const std::vector<Grid>& grids, const Graph& graph) {
  Index height = 0, width = 0;
  for (const auto& layer : graph.layers) height = std::max(height, layer.out.y), width = std::max(width, layer.out.x);
  std::vector<Grid> kept = grids;
  std::erase_if(kept, [&](const Grid& grid) { return grid.rows > height || grid.columns > width; });
  return kept.empty() ? grids : kept;
}

base::Result<std::vector<Grid>> candidate_grids(const Graph& graph, Index batch, const LayoutRequest& request,
                                                const std::vector<Device>& devices) {
  const int count = static_cast<int>(devices.size());
  if (request.rows == 0 && request.columns == 0) return useful(factorisations(count, batch), graph);
  const Grid grid{request.rows, request.columns, request.samples};
  if (grid.rows < 1 || grid.columns < 1 || grid.samples < 1)
    return base::error(ErrorCode::kInvalidArgument, "grid {} is impossible; use grid = auto or ROWSxCOLUMNS", to_string(grid));
  if (grid.samples > batch)
    return base::error(ErrorCode::kInvalidArgument,
                       "grid {} cuts a batch into {} parts, but it has {} sample{} (batch / subdivisions); use grid = auto or {}",
                       to_string(grid), grid.samples, batch, batch == 1 ? "" : "s", to_string(Grid{1, count, 1}));
  if (grid.cells() != count) {
    const std::string one_way = to_string(Grid{1, count, 1}), other = to_string(Grid{count, 1, 1});
    return base::error(ErrorCode::kInvalidArgument, "grid {} has {} tiles for {} {}; use grid = auto or {}{}", to_string(grid),
                       grid.cells(), count,
                       devices.front().participant == request.host ? "device"
                       : count == 1                                ? "worker"
                                                                   : "workers",
                       one_way, count == 1 ? "" : " or " + other);
  }
  return std::vector<Grid>{grid};
}

std::vector<Device> fastest_first(std::vector<Device> devices) {
  std::stable_sort(devices.begin(), devices.end(), [](const Device& a, const Device& b) { return a.speed > b.speed; });
  return devices;
}

// Devices to cells, the fastest first: a row then has devices of similar speed, so that shares of rows and columns, which
// follow the sums of their devices' speeds, come near the shares of the devices.
Segment deal(const Grid& grid, const std::vector<Device>& devices, int end) {
  Segment segment;
  segment.end = end;
  segment.cut.samples.assign(static_cast<std::size_t>(grid.samples), 0.0);
  segment.cut.rows.assign(static_cast<std::size_t>(grid.rows), 0.0);
  segment.cut.columns.assign(static_cast<std::size_t>(grid.columns), 0.0);
  const auto rows = static_cast<std::size_t>(grid.rows), columns = static_cast<std::size_t>(grid.columns);
  for (const Device& device : fastest_first(devices)) {
    const std::size_t cell = segment.participants.size();
    segment.participants.push_back(device.participant);
    segment.cut.samples[cell / (rows * columns)] += device.speed;
    segment.cut.rows[cell / columns % rows] += device.speed;
    segment.cut.columns[cell % columns] += device.speed;
  }
  return segment;
}

// `layout`, a single segment, with these nodes cut along channels instead.
Layout cut_channels(Layout layout, geometry::Range nodes, const std::vector<Device>& devices, const Graph& graph) {
  if (nodes.empty()) return layout;
  const Segment grid = layout.segments.front();
  Segment channels;
  channels.end = static_cast<int>(nodes.end);
  channels.cut.channels.clear();
  for (const Device& device : fastest_first(devices)) {
    channels.participants.push_back(device.participant);
    channels.cut.channels.push_back(device.speed);
  }
  layout.segments.clear();
  if (nodes.begin > graph.first_layer()) {
    layout.segments.push_back(grid);
    layout.segments.back().end = static_cast<int>(nodes.begin);
  }
  layout.segments.push_back(channels);
  if (nodes.end < graph.size()) layout.segments.push_back(grid);
  return layout;
}

// Better, or as good with samples less cut.
bool beats(const Choice& a, const Choice& b) {
  const auto cuts = [](const Choice& choice) { return choice.layout.segments.front().cut.samples.size(); };
  return a.seconds < (cuts(a) > cuts(b) ? kSampleCutGain * b.seconds : b.seconds);
}

Choice search(const std::vector<Grid>& grids, const std::vector<Device>& devices, Layout layout, OpenGroups open, Evaluator& evaluate) {
  std::vector<Choice> choices;
  for (const Grid& grid : grids) {
    layout.segments = {deal(grid, devices, evaluate.graph().size())};
    choices.push_back(best_pattern(layout, open, evaluate));
  }
  std::stable_sort(choices.begin(), choices.end(), [](const Choice& a, const Choice& b) { return a.seconds < b.seconds; });
  // The best without cuts along samples stays in the race, since it is preferred when it comes near.
  const auto whole_samples =
      std::find_if(choices.begin(), choices.end(), [](const Choice& c) { return c.layout.segments.front().cut.samples.size() == 1; });
  if (whole_samples != choices.end()) std::rotate(choices.begin(), whole_samples, whole_samples + 1);
  choices.resize(std::min(choices.size(), kGridsSearched));
  Choice best;
  for (std::size_t i = 0; i < choices.size(); ++i) {
    const int share = evaluate.left() / static_cast<int>(choices.size() - i);
    Choice found = descend(std::move(choices[i]), open, evaluate, share);
    if (i == 0 || beats(found, best)) best = std::move(found);
  }
  return best;
}

// The same layout with its last layers, or the last but one, cut along channels, from where that is fastest; of equally good
// ranges the shortest.
Choice with_channels(const Choice& choice, const std::vector<Device>& devices, Evaluator& evaluate) {
  struct Candidate {
    Choice choice;
    geometry::Range nodes;
  };
  const Graph& graph = evaluate.graph();
  std::vector<Candidate> candidates = {{choice, {}}};
  double best = choice.seconds;
  for (int end = graph.size(); end >= graph.size() - 1; --end)
    for (int begin = end - 1, behind = 0; begin >= graph.first_layer() && evaluate.left() > 0; --begin) {
      const geometry::Range nodes{begin, end};
      Choice next{cut_channels(choice.layout, nodes, devices, graph), kImpossible};
      next.seconds = evaluate(next.layout);
      candidates.push_back({next, nodes});
      if (next.seconds < best)
        best = next.seconds, behind = 0;
      else if (++behind > kLayersLookedFurther)
        break;
    }
  std::erase_if(candidates, [&](const Candidate& c) { return kEquallyGood * c.choice.seconds > best; });
  if (candidates.empty()) return choice;  // nothing is possible
  return std::min_element(candidates.begin(), candidates.end(),
                          [](const Candidate& a, const Candidate& b) { return a.nodes.size() < b.nodes.size(); })
      ->choice;
}

base::Result<Choice> choose_with(bool recompute, const Graph& graph, Index batch, const LayoutRequest& request,
                                 const std::vector<Device>& devices, int participants, const Cost& cost, int most_evaluations) {
  TESSERA_CHECK(!devices.empty(), "no devices of {} participants", participants);
  for (const Device& device : devices)
    if (!(device.speed > 0))
      return base::error(ErrorCode::kInvalidArgument, "participant {} has the impossible speed {}", device.participant, device.speed);
  TESSERA_ASSIGN(const auto grids, candidate_grids(graph, batch, request, devices));
  Layout layout;
  layout.participant_count = participants;
  layout.wire = request.wire;
  layout.recompute = recompute;
  layout.boundary_first = request.boundary_first == LayoutRequest::BoundaryFirst::kOn;
  layout.single_pass = request.single_pass;
  layout.forward_starts = request.forward_starts.value_or(recompute ? starts_after_shrinking(graph) : std::vector<int>{});
  layout.backward_ends = request.backward_ends.value_or(recompute ? ends_at_shrinking(graph) : std::vector<int>{});
  layout.host = request.host;
  const bool named = request.channels == LayoutRequest::Channels::kNodes;
  layout.segments = {deal(grids.front(), devices, graph.size())};
  if (named) {
    if (request.channel_nodes.begin < graph.first_layer() || request.channel_nodes.end > graph.size())
      return base::error(ErrorCode::kInvalidArgument, "layers outside the range cut along channels");
    layout = cut_channels(std::move(layout), request.channel_nodes, devices, graph);
  }
  TESSERA_TRY(make_plan(graph, batch, layout));  // the groups that were asked for
  // A single device exchanges nothing, so where groups begin makes no difference.
  const bool alone = devices.size() == 1;
  const OpenGroups open{!request.forward_starts && !alone && !recompute, !request.backward_ends && !alone && !recompute};
  Evaluator evaluate(graph, batch, cost, most_evaluations);
  if (grids.size() == 1 && !open.forward && !open.backward) return Choice{layout, evaluate(layout)};
  // Layers that are to be cut along channels come into it when grid and groups are chosen.
  Choice best = search(grids, devices, layout, open, evaluate);
  if (named)
    best.layout = cut_channels(std::move(best.layout), request.channel_nodes, devices, graph), best.seconds = evaluate(best.layout);
  // Whole maps are gathered for it, which costs what recomputation is to save.
  if (request.channels == LayoutRequest::Channels::kAuto && request.rows == 0 && !alone && !recompute) {
    Evaluator more(graph, batch, cost, std::min(most_evaluations, kEvaluationsForChannels));
    best = with_channels(best, devices, more);
  }
  if (best.seconds == kImpossible)
    return base::error(ErrorCode::kOutOfMemory,
                       "no way was found to cut layers {} to {} over {} devices that fits their memory; use more workers, "
                       "more subdivisions or a smaller image",
                       graph[graph.first_layer()].source, graph.layers.back().source, devices.size());
  return best;
}

base::Result<Choice> choose(const Graph& graph, Index batch, const LayoutRequest& request, const std::vector<Device>& devices,
                            int participants, const Cost& cost, int most_evaluations) {
  using Recompute = LayoutRequest::Recompute;
  const auto with = [&](bool recompute) {
    return choose_with(recompute, graph, batch, request, devices, participants, cost, most_evaluations);
  };
  auto kept = with(request.recompute == Recompute::kOn);
  const bool too_large = kept ? kept->seconds == kImpossible : kept.error().code == ErrorCode::kOutOfMemory;
  if (request.recompute != Recompute::kAuto || !too_large) return kept;
  auto again = with(true);
  return again && again->seconds < kImpossible ? std::move(again) : std::move(kept);
}

}  // namespace

base::Result<Layout> choose_layout(const Graph& graph, Index batch, const LayoutRequest& request, const std::vector<Device>& devices,
                                   int participants, const Cost& cost) {
  TESSERA_ASSIGN(Choice choice, choose(graph, batch, request, devices, participants, cost, kMostEvaluations));
  if (devices.size() < 2) return std::move(choice.layout);
  const auto try_flag = [&](bool Layout::*flag) {
    Choice other = choice;
    other.layout.*flag = true;
    other.seconds = Evaluator(graph, batch, cost, 1)(other.layout);
    if (other.seconds < kEquallyGood * choice.seconds) choice = std::move(other);
  };
  if (devices.size() > 2) try_flag(&Layout::merge_at_home);
  if (request.boundary_first == LayoutRequest::BoundaryFirst::kAuto) try_flag(&Layout::boundary_first);
  return std::move(choice.layout);
}

std::optional<SmallerCluster> faster_with_fewer(const Graph& graph, Index batch, const LayoutRequest& request,
                                                const std::vector<Device>& devices, double seconds, const MembersCost& cost) {
  LayoutRequest any_grid = request;
  any_grid.rows = any_grid.columns = 0, any_grid.samples = 1, any_grid.host = 0;  // of the members
  std::vector<Device> fastest = devices;
  std::stable_sort(fastest.begin(), fastest.end(), [](const Device& a, const Device& b) { return a.speed > b.speed; });
  std::optional<SmallerCluster> best;
  for (std::size_t count = 1; count < devices.size(); count += (count + 3) / 4) {  // 1 to 5, then ever larger steps
    std::vector<int> members = {request.host};
    std::vector<Device> part;
    for (std::size_t i = 0; i < count; ++i) {
      const bool host = fastest[i].participant == request.host;
      if (!host) members.push_back(fastest[i].participant);
      part.push_back({host ? 0 : static_cast<int>(members.size()) - 1, fastest[i].speed});
    }
    const auto choice = choose(
        graph, batch, any_grid, part, static_cast<int>(members.size()), [&](const Plan& plan) { return cost(plan, members); },
        kEvaluationsForFewer);
    if (choice && choice->seconds < kFewerGain * seconds && (!best || choice->seconds < best->seconds))
      best = SmallerCluster{static_cast<int>(count), choice->seconds};
  }
  return best;
}

}  // namespace tessera::plan
