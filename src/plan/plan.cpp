#include "plan/plan.hpp"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

namespace tessera::plan {

using base::ErrorCode;
using geometry::Range;
using graph::Graph;

namespace {

constexpr Index kLargestBatch = 1 << 20;
constexpr int kMostParticipants = 1024;
constexpr int kMostNodes = 1 << 12;  // programs number them in 12 bits

base::Status validate_marks(const std::vector<int>& marks, const Graph& graph, int always, const char* what) {
  if (!std::is_sorted(marks.begin(), marks.end(), std::less_equal<>()) || marks.empty())
    return base::error(ErrorCode::kInvalidArgument, "{} must be ascending layers of the range", what);
  if (marks.front() < graph.first_layer() || marks.back() >= graph.size())
    return base::error(ErrorCode::kInvalidArgument, "{} name a layer outside the range", what);
  if (std::find(marks.begin(), marks.end(), always) == marks.end())
    return base::error(ErrorCode::kInvalidArgument, "{} lack layer {}", what, graph[always].source);
  return {};
}

std::vector<int> every_layer(const Graph& graph) {
  std::vector<int> nodes;
  for (int node = graph.first_layer(); node < graph.size(); ++node) nodes.push_back(node);
  return nodes;
}

// Adds the mark that every plan has, keeping the order.
std::vector<int> with(std::vector<int> marks, int always) {
  const auto place = std::lower_bound(marks.begin(), marks.end(), always);
  if (place == marks.end() || *place != always) marks.insert(place, always);
  return marks;
}

// Parameters of fewer elements stay together on one owner: they are not worth a message each.
constexpr Index kSmallestShare = 1 << 13;

Box weights_box(const Graph& graph, int node, Range filters) {
  if (filters.empty()) return {};
  const Index kernel = graph[node].kernel;
  return {filters, {0, graph.input_channels(node)}, {0, kernel}, {0, kernel}};
}

// Boxes of a segment's participants, everybody else's empty.
base::Result<std::vector<Box>> boxes_of(const Graph& graph, int node, Index batch, const Layout& layout) {
  const Segment& segment = layout.segment(node);
  const auto cells = geometry::cut(batch, graph[node].out, segment.cut);
  std::vector<Box> boxes(static_cast<std::size_t>(std::max(0, layout.participant_count)));
  for (std::size_t cell = 0; cell < cells.size(); ++cell) {
    const int participant = segment.participants[cell];
    if (participant < 0 || participant >= layout.participant_count || !boxes[static_cast<std::size_t>(participant)].empty())
      return base::error(ErrorCode::kInvalidArgument, "cell {} of a cut is given to participant {}, which cannot take it", cell,
                         participant);
    boxes[static_cast<std::size_t>(participant)] = cells[cell];
  }
  return boxes;
}

// Each run of filters is divided among those who compute it.
std::vector<Box> weight_homes(const Graph& graph, int node, const std::vector<Box>& owned) {
  std::vector<Box> homes(owned.size());
  if (!graph[node].trainable()) return homes;
  std::map<Index, std::vector<std::size_t>> owners;  // by first filter
  for (std::size_t p = 0; p < owned.size(); ++p)
    if (!owned[p].empty()) owners[owned[p].c.begin].push_back(p);
  for (const auto& [first, those] : owners) {
    const Range filters = owned[those.front()].c;
    const bool small = weights_box(graph, node, filters).elements() < kSmallestShare;
    const auto parts = small ? std::vector<Range>{filters} : geometry::cut(filters.size(), std::vector<double>(those.size(), 1.0));
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const std::size_t owner = small ? those[static_cast<std::size_t>(node) % those.size()] : those[i];
      homes[owner] = weights_box(graph, node, small ? filters : Range{first + parts[i].begin, first + parts[i].end});
    }
  }
  return homes;
}

int statistics_home(const Graph& graph, int node, const std::vector<Box>& owned, bool merge_at_home) {
  std::vector<int> owners;
  for (std::size_t p = 0; p < owned.size(); ++p)
    if (!owned[p].empty()) owners.push_back(static_cast<int>(p));
  if (!graph[node].batch_normalize || !merge_at_home || owners.size() < 3) return kMergedByAll;
  return owners[static_cast<std::size_t>(node) % owners.size()];
}

bool cuts_channels(const Graph& graph, int node, const Box& box) { return !box.empty() && box.c.size() != graph[node].out.c; }

nlohmann::json box_json(const Box& b) { return {b.n.begin, b.n.end, b.c.begin, b.c.end, b.y.begin, b.y.end, b.x.begin, b.x.end}; }

Box box_from(const nlohmann::json& json) {
  const auto v = json.get<std::array<Index, 8>>();
  return {{v[0], v[1]}, {v[2], v[3]}, {v[4], v[5]}, {v[6], v[7]}};
}

}  // namespace

bool cut_along_channels(const Plan& plan, const Graph& graph, int node) {
  const auto& boxes = plan.owned[static_cast<std::size_t>(node)];
  return graph[node].trainable() &&
         std::any_of(boxes.begin(), boxes.end(), [&](const Box& box) { return cuts_channels(graph, node, box); });
}

std::vector<int> forward_groups(const Plan& plan, const Graph& graph) {
  std::vector<int> groups(graph.layers.size(), -1);
  for (int node = graph.first_layer(); node < graph.size(); ++node)
    groups[static_cast<std::size_t>(node)] =
        static_cast<int>(std::upper_bound(plan.forward_starts.begin(), plan.forward_starts.end(), node) - plan.forward_starts.begin());
  return groups;
}

std::vector<int> backward_groups(const Plan& plan, const Graph& graph) {
  std::vector<int> groups(graph.layers.size(), -1);
  for (int node = graph.first_layer(); node < graph.size(); ++node)
    groups[static_cast<std::size_t>(node)] =
        static_cast<int>(std::lower_bound(plan.backward_ends.begin(), plan.backward_ends.end(), node) - plan.backward_ends.begin());
  return groups;
}

std::vector<bool> contributors(const Plan& plan) {
  std::vector<bool> result(static_cast<std::size_t>(plan.participants));
  for (const auto& boxes : plan.owned)
    for (std::size_t p = 0; p < boxes.size(); ++p) result[p] = result[p] || !boxes[p].empty();
  return result;
}

base::Status validate(const Plan& plan, const Graph& graph) {
  if (plan.batch < 1 || plan.batch > kLargestBatch) return base::error(ErrorCode::kInvalidArgument, "impossible batch {}", plan.batch);
  if (plan.participants < 1 || plan.participants > kMostParticipants)
    return base::error(ErrorCode::kInvalidArgument, "impossible number of participants {}", plan.participants);
  if (graph.size() >= kMostNodes)
    return base::error(ErrorCode::kInvalidArgument, "a graph of {} nodes; most are {}", graph.size(), kMostNodes);
  if (plan.host < 0 || plan.host >= plan.participants) return base::error(ErrorCode::kInvalidArgument, "there is no host {}", plan.host);
  for (const std::size_t rows : {plan.owned.size(), plan.made.size(), plan.weights.size(), plan.statistics.size()})
    if (rows != graph.layers.size())
      return base::error(ErrorCode::kInvalidArgument, "a plan for {} nodes, the graph has {}", rows, graph.layers.size());
  const auto homes = [&](const std::vector<Box>& boxes, const Box& whole) {
    return static_cast<int>(boxes.size()) == plan.participants && is_partition(boxes, whole);
  };
  for (int node = 0; node < graph.size(); ++node) {
    const auto i = static_cast<std::size_t>(node);
    const Box whole = Box::whole(plan.batch, graph[node].out);
    if (!homes(plan.owned[i], whole))
      return base::error(ErrorCode::kInvalidArgument, "the owned boxes of layer {} do not cover its output once", graph[node].source);
    if (node < graph.first_layer() ? !homes(plan.made[i], whole) : !plan.made[i].empty())
      return base::error(ErrorCode::kInvalidArgument, "the boxes of input {} do not cover it once", node);
    const Box filters = graph[node].trainable() ? weights_box(graph, node, {0, graph[node].out.c}) : Box{};
    if (!homes(plan.weights[i], filters))
      return base::error(ErrorCode::kInvalidArgument, "the homes of the weights of layer {} do not cover them once", graph[node].source);
    for (const Box& box : plan.weights[i])
      if (!box.empty() && !(box == weights_box(graph, node, box.n)))
        return base::error(ErrorCode::kInvalidArgument, "weights of layer {} are cut through a filter", graph[node].source);
    if (plan.statistics[i] < kMergedByAll || plan.statistics[i] >= plan.participants)
      return base::error(ErrorCode::kInvalidArgument, "there is no participant {} for the statistics of layer {}", plan.statistics[i],
                         graph[node].source);
    if (!cut_along_channels(plan, graph, node)) continue;
    for (const Box& box : plan.owned[i])
      if (!box.empty() && (!(box.y == whole.y) || !(box.x == whole.x)))
        return base::error(ErrorCode::kInvalidArgument, "layer {} is cut along channels and the map at once", graph[node].source);
    const auto marked = [node](const std::vector<int>& marks, int mark) {
      return mark < node - 1 || std::binary_search(marks.begin(), marks.end(), mark);
    };
    const bool last = node + 1 == graph.size(), first = node == graph.first_layer();
    if (!marked(plan.forward_starts, node) || (!last && !marked(plan.forward_starts, node + 1)) || !marked(plan.backward_ends, node) ||
        (!first && !marked(plan.backward_ends, node - 1)))
      return base::error(ErrorCode::kInvalidArgument, "layer {} is cut along channels and needs groups of its own", graph[node].source);
  }
  TESSERA_TRY(validate_marks(plan.forward_starts, graph, graph.first_layer(), "forward groups"));
  return validate_marks(plan.backward_ends, graph, graph.size() - 1, "backward groups");
}

const Segment& Layout::segment(int node) const {
  std::size_t i = 0;
  while (i + 1 < segments.size() && node >= segments[i].end) ++i;
  return segments[i];
}

base::Result<Plan> make_plan(const Graph& graph, Index batch, const Layout& layout) {
  int begin = graph.first_layer();
  for (const Segment& segment : layout.segments) {
    if (segment.end <= begin || segment.cut.cells() != segment.participants.size())
      return base::error(ErrorCode::kInvalidArgument, "a segment up to node {} cut into {} cells for {} devices", segment.end,
                         segment.cut.cells(), segment.participants.size());
    begin = segment.end;
  }
  if (begin != graph.size()) return base::error(ErrorCode::kInvalidArgument, "segments up to node {} of {}", begin, graph.size());
  if (layout.host < 0 || layout.host >= layout.participant_count)
    return base::error(ErrorCode::kInvalidArgument, "there is no host {}", layout.host);
  Plan plan;
  plan.batch = batch;
  plan.participants = layout.participant_count;
  plan.host = layout.host;
  plan.wire = layout.wire;
  plan.recompute = layout.recompute;
  plan.boundary_first = layout.boundary_first;
  plan.single_pass = layout.single_pass;
  plan.forward_starts = layout.forward_starts.empty() ? every_layer(graph) : with(layout.forward_starts, graph.first_layer());
  plan.backward_ends = layout.backward_ends.empty() ? every_layer(graph) : with(layout.backward_ends, graph.size() - 1);
  for (int node = 0; node < graph.size(); ++node) {
    TESSERA_ASSIGN(auto boxes, boxes_of(graph, node, batch, layout));
    plan.made.emplace_back();
    if (node < graph.first_layer()) {
      plan.made.back().resize(boxes.size());
      plan.made.back()[static_cast<std::size_t>(layout.host)] = Box::whole(batch, graph[node].out);
    }
    plan.weights.push_back(weight_homes(graph, node, boxes));
    plan.statistics.push_back(statistics_home(graph, node, boxes, layout.merge_at_home));
    plan.owned.push_back(std::move(boxes));
  }
  for (const Segment& segment : layout.segments)
    if (segment.end < graph.size()) {
      plan.forward_starts = with(plan.forward_starts, segment.end);
      plan.backward_ends = with(plan.backward_ends, segment.end - 1);
    }
  // Whoever computes some channels reads all of the layer before.
  for (int node = graph.first_layer(); node < graph.size(); ++node) {
    if (!cut_along_channels(plan, graph, node)) continue;
    plan.forward_starts = with(plan.forward_starts, node);
    if (node + 1 < graph.size()) plan.forward_starts = with(plan.forward_starts, node + 1);
    plan.backward_ends = with(plan.backward_ends, node);
    if (node > graph.first_layer()) plan.backward_ends = with(plan.backward_ends, node - 1);
  }
  TESSERA_TRY(validate(plan, graph));
  return plan;
}

nlohmann::json to_json(const Plan& plan) {
  const auto table = [](const std::vector<std::vector<Box>>& rows) {
    auto result = nlohmann::json::array();
    for (const auto& boxes : rows) {
      auto row = nlohmann::json::array();
      for (const Box& box : boxes) row.push_back(box_json(box));
      result.push_back(row);
    }
    return result;
  };
  return {{"batch", plan.batch},
          {"participants", plan.participants},
          {"host", plan.host},
          {"owned", table(plan.owned)},
          {"made", table(plan.made)},
          {"weights", table(plan.weights)},
          {"statistics", plan.statistics},
          {"forward_starts", plan.forward_starts},
          {"backward_ends", plan.backward_ends},
          {"wire", plan.wire == WireType::kFloat16 ? "fp16" : "fp32"},
          {"recompute", plan.recompute},
          {"boundary_first", plan.boundary_first},
          {"single_pass", plan.single_pass}};
}

base::Result<Plan> plan_from_json(const nlohmann::json& json, const Graph& graph) {
  Plan plan;
  const auto table = [&](const char* name) {
    std::vector<std::vector<Box>> rows;
    for (const auto& row : json.at(name)) {
      rows.emplace_back();
      for (const auto& box : row) rows.back().push_back(box_from(box));
    }
    return rows;
  };
  try {
    json.at("batch").get_to(plan.batch);
    json.at("participants").get_to(plan.participants);
    json.at("host").get_to(plan.host);
    json.at("statistics").get_to(plan.statistics);
    json.at("forward_starts").get_to(plan.forward_starts);
    json.at("backward_ends").get_to(plan.backward_ends);
    json.at("recompute").get_to(plan.recompute);
    json.at("boundary_first").get_to(plan.boundary_first);
    json.at("single_pass").get_to(plan.single_pass);
    const std::string wire = json.at("wire");
    if (wire != "fp32" && wire != "fp16") return base::error(ErrorCode::kProtocol, "not a plan: unknown wire type '{}'", wire);
    plan.wire = wire == "fp16" ? WireType::kFloat16 : WireType::kFloat32;
    plan.owned = table("owned"), plan.made = table("made"), plan.weights = table("weights");
  } catch (const nlohmann::json::exception& e) {
    return base::error(ErrorCode::kProtocol, "not a plan: {}", e.what());
  }
  TESSERA_TRY(validate(plan, graph));
  return plan;
}

}  // namespace tessera::plan
