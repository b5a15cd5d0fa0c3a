#include "plan/plan.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace tessera::plan {

using base::ErrorCode;
using graph::Graph;

namespace {

constexpr Index kLargestBatch = 1 << 20;
constexpr int kMostParticipants = 1024;

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

// One box for each grid cell, in their order.
std::vector<Box> cells_of(const Graph& graph, int node, Index batch, const Layout& layout) {
  if (!layout.channel_nodes.contains({node, node + 1})) return geometry::cut(batch, graph[node].out, layout.grid);
  std::vector<Box> boxes;
  for (const geometry::Range& channels : geometry::cut(graph[node].out.c, layout.channel_shares)) {
    boxes.push_back(Box::whole(batch, graph[node].out));
    boxes.back().c = channels;
    if (channels.empty()) boxes.back() = Box{};
  }
  return boxes;
}

nlohmann::json box_json(const Box& b) { return {b.n.begin, b.n.end, b.c.begin, b.c.end, b.y.begin, b.y.end, b.x.begin, b.x.end}; }

Box box_from(const nlohmann::json& json) {
  const auto v = json.get<std::array<Index, 8>>();
  return {{v[0], v[1]}, {v[2], v[3]}, {v[4], v[5]}, {v[6], v[7]}};
}

}  // namespace

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
  if (plan.owned.size() != graph.layers.size())
    return base::error(ErrorCode::kInvalidArgument, "a plan for {} tensors, the graph has {}", plan.owned.size(), graph.layers.size());
  for (int node = 0; node < graph.size(); ++node) {
    const auto& boxes = plan.owned[static_cast<std::size_t>(node)];
    if (static_cast<int>(boxes.size()) != plan.participants || !is_partition(boxes, Box::whole(plan.batch, graph[node].out)))
      return base::error(ErrorCode::kInvalidArgument, "the owned boxes of layer {} do not cover its output once", graph[node].source);
  }
  TESSERA_TRY(validate_marks(plan.forward_starts, graph, graph.first_layer(), "forward groups"));
  return validate_marks(plan.backward_ends, graph, graph.size() - 1, "backward groups");
}

base::Result<Plan> make_plan(const Graph& graph, Index batch, const Layout& layout) {
  if (layout.grid.cells() != layout.participants.size())
    return base::error(ErrorCode::kInvalidArgument, "a grid of {} cells for {} devices", layout.grid.cells(), layout.participants.size());
  const auto channels = layout.channel_nodes;
  if (!channels.empty() &&
      (channels.begin < graph.first_layer() || channels.end > graph.size() || layout.channel_shares.size() != layout.participants.size()))
    return base::error(ErrorCode::kInvalidArgument, "layers outside the range, or for another number of devices, cut along channels");
  Plan plan;
  plan.batch = batch;
  plan.participants = layout.participant_count;
  plan.wire = layout.wire;
  plan.recompute = layout.recompute;
  plan.boundary_first = layout.boundary_first;
  plan.single_pass = layout.single_pass;
  plan.forward_starts = layout.forward_starts.empty() ? every_layer(graph) : with(layout.forward_starts, graph.first_layer());
  plan.backward_ends = layout.backward_ends.empty() ? every_layer(graph) : with(layout.backward_ends, graph.size() - 1);
  // Whoever computes some channels reads all of the layer before.
  for (Index node = channels.begin; node < channels.end; ++node) {
    plan.forward_starts = with(plan.forward_starts, static_cast<int>(node));
    if (node + 1 < graph.size()) plan.forward_starts = with(plan.forward_starts, static_cast<int>(node + 1));
    plan.backward_ends = with(plan.backward_ends, static_cast<int>(node));
    if (node > graph.first_layer()) plan.backward_ends = with(plan.backward_ends, static_cast<int>(node - 1));
  }
  for (int node = 0; node < graph.size(); ++node) {
    const auto cells = cells_of(graph, node, batch, layout);
    std::vector<Box> boxes(static_cast<std::size_t>(std::max(0, plan.participants)));
    for (std::size_t cell = 0; cell < cells.size(); ++cell) {
      const int participant = layout.participants[cell];
      if (participant < 0 || participant >= plan.participants || !boxes[static_cast<std::size_t>(participant)].empty())
        return base::error(ErrorCode::kInvalidArgument, "grid cell {} is given to participant {}, which cannot take it", cell, participant);
      boxes[static_cast<std::size_t>(participant)] = cells[cell];
    }
    plan.owned.push_back(std::move(boxes));
  }
  TESSERA_TRY(validate(plan, graph));
  return plan;
}

nlohmann::json to_json(const Plan& plan) {
  auto owned = nlohmann::json::array();
  for (const auto& boxes : plan.owned) {
    auto row = nlohmann::json::array();
    for (const Box& box : boxes) row.push_back(box_json(box));
    owned.push_back(row);
  }
  return {{"batch", plan.batch},
          {"participants", plan.participants},
          {"owned", owned},
          {"forward_starts", plan.forward_starts},
          {"backward_ends", plan.backward_ends},
          {"wire", plan.wire == WireType::kFloat16 ? "fp16" : "fp32"},
          {"recompute", plan.recompute},
          {"boundary_first", plan.boundary_first},
          {"single_pass", plan.single_pass}};
}

base::Result<Plan> plan_from_json(const nlohmann::json& json, const Graph& graph) {
  Plan plan;
  try {
    json.at("batch").get_to(plan.batch);
    json.at("participants").get_to(plan.participants);
    json.at("forward_starts").get_to(plan.forward_starts);
    json.at("backward_ends").get_to(plan.backward_ends);
    json.at("recompute").get_to(plan.recompute);
    json.at("boundary_first").get_to(plan.boundary_first);
    json.at("single_pass").get_to(plan.single_pass);
    const std::string wire = json.at("wire");
    if (wire != "fp32" && wire != "fp16") return base::error(ErrorCode::kProtocol, "not a plan: unknown wire type '{}'", wire);
    plan.wire = wire == "fp16" ? WireType::kFloat16 : WireType::kFloat32;
    for (const auto& row : json.at("owned")) {
      std::vector<Box> boxes;
      for (const auto& box : row) boxes.push_back(box_from(box));
      plan.owned.push_back(std::move(boxes));
    }
  } catch (const nlohmann::json::exception& e) {
    return base::error(ErrorCode::kProtocol, "not a plan: {}", e.what());
  }
  TESSERA_TRY(validate(plan, graph));
  return plan;
}

}  // namespace tessera::plan
