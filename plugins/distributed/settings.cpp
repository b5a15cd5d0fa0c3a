#include "plugins/distributed/settings.hpp"

#include <algorithm>

namespace tessera::distributed {

using base::ErrorCode;

namespace {

template <typename Planned>
Planned chosen(cfg::Choice choice) {
  return choice == cfg::Choice::kAuto ? Planned::kAuto : choice == cfg::Choice::kOn ? Planned::kOn : Planned::kOff;
}

base::Status read_backend(const std::string& value, const std::string& where, std::string names, std::optional<kernels::Backend>& backend) {
  backend.reset();
  if (value == "auto" || value.empty()) return {};
  const auto built = kernels::built_backends();
  for (const auto known : built) names += fmt::format(", {}", kernels::to_string(known));
  const auto named = kernels::backend_from_string(value);
  if (!named) return base::error(ErrorCode::kInvalidArgument, "{}: no such backend; write one of {}", where, names);
  if (std::find(built.begin(), built.end(), *named) == built.end())
    return base::error(ErrorCode::kInvalidArgument, "{}: this program was built without it; write one of {}", where, names);
  backend = *named;
  return {};
}

// Layers as nodes; `always`: the first layer of the range (forward) or its last (backward), which every plan marks.
base::Result<std::optional<std::vector<int>>> nodes_of(const cfg::Groups& groups, const graph::Graph& graph, int always) {
  if (groups.kind == cfg::Groups::Kind::kAuto) return std::nullopt;
  std::vector<int> nodes;
  const int first = graph.first_layer();
  if (groups.kind == cfg::Groups::Kind::kEach)
    for (int node = first; node < graph.size(); ++node) nodes.push_back(node);
  for (const int layer : groups.layers) {
    const int node = layer - graph[first].source + first;
    if (node < first || node >= graph.size())
      return base::error(ErrorCode::kInvalidArgument, "{}: layer {} is not wrapped; name layers from {} to {}, or write auto", groups.where,
                         layer, graph[first].source, graph.layers.back().source);
    nodes.push_back(node);
  }
  const auto place = std::lower_bound(nodes.begin(), nodes.end(), always);
  if (place == nodes.end() || *place != always) nodes.insert(place, always);
  return nodes;
}

base::Status set_channels(const cfg::Channels& channels, const graph::Graph& graph, plan::LayoutRequest& request) {
  using Cut = plan::LayoutRequest::Channels;
  request.channels = channels.kind == cfg::Channels::Kind::kAuto  ? Cut::kAuto
                     : channels.kind == cfg::Channels::Kind::kOff ? Cut::kOff
                                                                  : Cut::kNodes;
  if (request.channels != Cut::kNodes) return {};
  const geometry::Index first = graph.first_layer(), offset = first - graph[graph.first_layer()].source;
  for (const cfg::Channels::Run& run : channels.runs) {
    const geometry::Index begin = run.first + offset, end = run.last < 0 ? graph.size() : run.last + offset + 1;
    if (begin >= first && end <= graph.size() && begin < end) {
      request.channel_nodes.push_back({begin, end});
      continue;
    }
    return base::error(ErrorCode::kInvalidArgument, "{}: not all of these layers are wrapped; name layers from {} to {}, or write auto",
                       channels.where, graph[graph.first_layer()].source, graph.layers.back().source);
  }
  return {};
}

}  // namespace

base::Result<Settings> read_settings(const cfg::DistributedSection& section) {
  TESSERA_ASSIGN(Settings settings, cfg::read_distributed_section(section).map([](auto read) { return Settings{std::move(read), {}}; }));
  TESSERA_TRY(read_backend(settings.backend_name, settings.backend_where, "auto", settings.backend));
  return settings;
}

base::Status set_backend(Settings& settings, const std::string& value, const std::string& where) {
  return read_backend(value, where, "stock, auto", settings.backend);
}

base::Result<plan::LayoutRequest> layout_request(const Settings& settings, const graph::Graph& graph) {
  plan::LayoutRequest request;
  request.rows = settings.rows, request.columns = settings.columns, request.samples = settings.samples;
  request.wire = settings.half_wire ? plan::WireType::kFloat16 : plan::WireType::kFloat32;
  request.recompute = chosen<plan::LayoutRequest::Recompute>(settings.recompute);
  request.boundary_first = chosen<plan::LayoutRequest::BoundaryFirst>(settings.boundary_first);
  TESSERA_TRY(set_channels(settings.channels, graph, request));
  TESSERA_ASSIGN(request.forward_starts, nodes_of(settings.forward_groups, graph, graph.first_layer()));
  TESSERA_ASSIGN(request.backward_ends, nodes_of(settings.backward_groups, graph, graph.size() - 1));
  return request;
}

}  // namespace tessera::distributed
