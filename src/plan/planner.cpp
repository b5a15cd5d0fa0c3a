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
constexpr int kEvaluationsForChannels = 120;
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

// Which nodes are cut along channels instead of by the grid, by groups of devices that have `samples` parts of the batch.
struct ByChannel {
  std::vector<bool> nodes;  // none: empty
  std::size_t samples = 1;

  static ByChannel ranges(const Graph& graph, const std::vector<geometry::Range>& ranges, std::size_t samples) {
    ByChannel result{std::vector<bool>(graph.layers.size()), samples};
    for (const geometry::Range& range : ranges)
      for (auto node = range.begin; node < range.end; ++node) result.nodes[static_cast<std::size_t>(node)] = true;
    return result;
  }
  bool operator[](int node) const { return nodes[static_cast<std::size_t>(node)]; }
};

// Cells go through samples first, as the grid's: who shares samples there shares them here.
Segment channel_segment(std::size_t samples, const std::vector<Device>& devices) {
  Segment segment;
  const std::size_t parts = devices.size() / samples;
  segment.cut.samples.assign(samples, 0.0);
  segment.cut.channels.assign(parts, 0.0);
  for (const Device& device : fastest_first(devices)) {
    const std::size_t cell = segment.participants.size();
    segment.participants.push_back(device.participant);
    segment.cut.samples[cell / parts] += device.speed;
    segment.cut.channels[cell % parts] += device.speed;
  }
  return segment;
}

// `layout` with the cut of its first segment for all nodes but those.
Layout cut_channels(Layout layout, const ByChannel& by_channel, const std::vector<Device>& devices, const Graph& graph) {
  if (by_channel.nodes.empty()) return layout;
  const Segment grid = layout.segments.front(), channels = channel_segment(by_channel.samples, devices);
  layout.segments.clear();
  for (int node = graph.first_layer(); node < graph.size(); ++node) {
    if (node > graph.first_layer() && by_channel[node] == by_channel[node - 1]) continue;
    if (node > graph.first_layer()) layout.segments.back().end = node;
    layout.segments.push_back(by_channel[node] ? channels : grid);
  }
  layout.segments.back().end = graph.size();
  return layout;
}

std::size_t sample_cuts(const Choice& choice) { return choice.layout.segments.front().cut.samples.size(); }

// Better, or as good with samples less cut.
bool beats(const Choice& a, const Choice& b) {
  return a.seconds < (sample_cuts(a) > sample_cuts(b) ? kSampleCutGain * b.seconds : b.seconds);
}

// The best choice first; behind it the best of other numbers of parts along samples, as far as looked at: what loses with the last layers
// cut by the grid may win with their channels cut.
std::vector<Choice> search(const std::vector<Grid>& grids, const std::vector<Device>& devices, Layout layout, OpenGroups open,
                           Evaluator& evaluate) {
  std::vector<Choice> choices;
  for (const Grid& grid : grids) {
    layout.segments = {deal(grid, devices, evaluate.graph().size())};
    choices.push_back(best_pattern(layout, open, evaluate));
  }
  std::stable_sort(choices.begin(), choices.end(), [](const Choice& a, const Choice& b) { return a.seconds < b.seconds; });
  // The best without cuts along samples stays in the race, since it is preferred when it comes near.
  const auto whole_samples = std::find_if(choices.begin(), choices.end(), [](const Choice& c) { return sample_cuts(c) == 1; });
  if (whole_samples != choices.end()) std::rotate(choices.begin(), whole_samples, whole_samples + 1);
  std::vector<Choice> others;
  for (const Choice& choice : choices)
    if (std::none_of(others.begin(), others.end(), [&](const Choice& o) { return sample_cuts(o) == sample_cuts(choice); }))
      others.push_back(choice);
  choices.resize(std::min(choices.size(), kGridsSearched));
  Choice best;
  for (std::size_t i = 0; i < choices.size(); ++i) {
    const int share = evaluate.left() / static_cast<int>(choices.size() - i);
    Choice found = descend(std::move(choices[i]), open, evaluate, share);
    if (i == 0 || beats(found, best)) best = std::move(found);
  }
  std::erase_if(others, [&](const Choice& o) { return sample_cuts(o) == sample_cuts(best); });
  others.insert(others.begin(), std::move(best));
  return others;
}

// A choice, and which of its nodes are cut along channels.
struct Candidate {
  Choice choice;
  ByChannel by_channel;
  std::size_t cut_nodes = 0;
};

// Numbers of parts along samples under which the devices divide channels evenly.
std::vector<std::size_t> sample_parts(std::size_t devices, Index batch) {
  std::vector<std::size_t> parts;
  for (std::size_t samples = 1; samples < devices && static_cast<Index>(samples) <= batch; ++samples)
    if (devices % samples == 0) parts.push_back(samples);
  return parts;
}

// Looks at `grid`, a choice without channels cut, with channels cut.
class ChannelSearch {
 public:
  ChannelSearch(const std::vector<Device>& devices, Index batch, Evaluator& evaluate)
      : devices_(devices), batch_(batch), evaluate_(evaluate), graph_(evaluate.graph()) {}

  // The last layers, or the last but one, cut along channels, by all devices or by groups that divide the batch, from where that is
  // fastest; of equally good ranges the shortest.
  Candidate last_layers(const Choice& grid) {
    std::vector<Candidate> candidates = {{grid, {}, 0}};
    double best = grid.seconds;
    for (const std::size_t samples : sample_parts(devices_.size(), batch_))
      for (int end = graph_.size(); end >= graph_.size() - 1; --end)
        for (int begin = end - 1, behind = 0; begin >= graph_.first_layer() && evaluate_.left() > 0; --begin) {
          const auto by_channel = ByChannel::ranges(graph_, {{begin, end}}, samples);
          candidates.push_back({cut(grid, by_channel), by_channel, static_cast<std::size_t>(end - begin)});
          const double seconds = candidates.back().choice.seconds;
          if (seconds < best)
            best = seconds, behind = 0;
          else if (++behind > kLayersLookedFurther)
            break;
        }
    std::erase_if(candidates, [&](const Candidate& c) { return kEquallyGood * c.choice.seconds > best; });
    if (candidates.empty()) return {grid, {}, 0};  // nothing is possible
    return *std::min_element(candidates.begin(), candidates.end(),
                             [](const Candidate& a, const Candidate& b) { return a.cut_nodes < b.cut_nodes; });
  }

  // Another grid, with the same layers' channels cut, where that is better.
  void change_grid(Candidate& best, const Choice& grid) {
    for (const std::size_t samples : sample_parts(devices_.size(), batch_)) {
      ByChannel by_channel{best.by_channel.nodes, samples};
      if (Choice next = cut(grid, by_channel); beats(next, best.choice)) best = {std::move(next), std::move(by_channel), best.cut_nodes};
    }
  }

  // Single layers cut the other way, where that is better: between two with many weights may be one with few.
  void change_layers(Candidate& best, const Choice& grid) {
    for (bool improved = true; improved;) {
      improved = false;
      for (int node = graph_.size() - 1; node >= graph_.first_layer() && evaluate_.left() > 0; --node) {
        ByChannel by_channel = best.by_channel;
        by_channel.nodes[static_cast<std::size_t>(node)].flip();
        if (Choice next = cut(grid, by_channel); next.seconds < kEquallyGood * best.choice.seconds)
          best = {std::move(next), std::move(by_channel), best.cut_nodes}, improved = true;
      }
    }
  }

 private:
  Choice cut(const Choice& grid, const ByChannel& by_channel) {
    Choice next{cut_channels(grid.layout, by_channel, devices_, graph_), kImpossible};
    next.seconds = evaluate_(next.layout);
    return next;
  }

  const std::vector<Device>& devices_;
  const Index batch_;
  Evaluator& evaluate_;
  const Graph& graph_;
};

// The best of `grids`, the first of which is best without, with channels cut where that pays.
Choice with_channels(const std::vector<Choice>& grids, const std::vector<Device>& devices, Index batch, Evaluator& evaluate) {
  ChannelSearch search(devices, batch, evaluate);
  Candidate best = search.last_layers(grids.front());
  if (best.by_channel.nodes.empty()) return best.choice;
  const Choice* grid = &grids.front();
  for (std::size_t i = 1; i < grids.size(); ++i) {
    const double before = best.choice.seconds;
    search.change_grid(best, grids[i]);
    if (best.choice.seconds != before) grid = &grids[i];
  }
  search.change_layers(best, *grid);
  return best.choice;
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
    for (const geometry::Range& nodes : request.channel_nodes)
      if (nodes.begin < graph.first_layer() || nodes.end > graph.size())
        return base::error(ErrorCode::kInvalidArgument, "layers outside the range cut along channels");
    layout = cut_channels(std::move(layout), ByChannel::ranges(graph, request.channel_nodes, 1), devices, graph);
  }
  TESSERA_TRY(make_plan(graph, batch, layout));  // the groups that were asked for
  // A single device exchanges nothing, so where groups begin makes no difference.
  const bool alone = devices.size() == 1;
  const OpenGroups open{!request.forward_starts && !alone && !recompute, !request.backward_ends && !alone && !recompute};
  Evaluator evaluate(graph, batch, cost, most_evaluations);
  if (grids.size() == 1 && !open.forward && !open.backward) return Choice{layout, evaluate(layout)};
  // Layers that are to be cut along channels come into it when grid and groups are chosen.
  const std::vector<Choice> found = search(grids, devices, layout, open, evaluate);
  Choice best = found.front();
  if (named)
    best.layout = cut_channels(std::move(best.layout), ByChannel::ranges(graph, request.channel_nodes, 1), devices, graph),
    best.seconds = evaluate(best.layout);
  // Whole maps are gathered for it, which costs what recomputation is to save.
  if (request.channels == LayoutRequest::Channels::kAuto && request.rows == 0 && !alone && !recompute) {
    Evaluator more(graph, batch, cost, std::min(most_evaluations, kEvaluationsForChannels));
    best = with_channels(found, devices, batch, more);
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
