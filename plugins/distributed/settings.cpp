#include "plugins/distributed/settings.hpp"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <functional>

#include "base/text.hpp"

namespace tessera::distributed {

using base::ErrorCode;
using base::split;
using base::to_integer;

namespace {

constexpr long kLargest = 1 << 24;  // of any number here; a longer one is a slip of the pen

// One key's value and where it stands.
struct Entry {
  const std::string& value;
  std::string where;

  template <typename... Args>
  tl::unexpected<base::Error> fail(fmt::format_string<Args...> format, Args&&... args) const {
    return base::error(ErrorCode::kInvalidArgument, "{}: {}", where, fmt::format(format, std::forward<Args>(args)...));
  }
};

base::Status read_count(const Entry& entry, long least, const char* advice, int& target) {
  const auto number = base::to_integer(entry.value);
  if (!number || *number < least || *number > kLargest) return entry.fail("not a whole number of at least {}; {}", least, advice);
  target = static_cast<int>(*number);
  return {};
}

base::Status read_workers(const Entry& entry, const std::filesystem::path& folder, Settings& settings) {
  if (entry.value == "none") return {};
  if (entry.value == "local" || entry.value.starts_with("local:")) {
    const auto number = entry.value == "local" ? std::nullopt : base::to_integer(entry.value.substr(6));
    if (!number || *number < 1 || *number > kMostLocalWorkers)
      return entry.fail("no number of worker processes; write local:N with N from 1 to {}, or none", kMostLocalWorkers);
    settings.local_workers = static_cast<int>(*number);
    return {};
  }
  const std::filesystem::path path = folder / entry.value;
  std::error_code unreadable;
  if (!std::filesystem::is_regular_file(path, unreadable))
    return entry.fail("{} is no file; write local:N, none, or the path of a cluster file from the cfg's folder", path.string());
  settings.cluster_file = path.string();
  return {};
}

base::Status read_grid(const Entry& entry, Settings& settings) {
  if (entry.value == "auto") return {};
  const auto sides = base::split(entry.value, 'x');
  std::vector<int> numbers;
  for (const std::string& side : sides) numbers.push_back(static_cast<int>(std::clamp(base::to_integer(side).value_or(0), 0L, 1025L)));
  const auto possible = [](int n) { return n >= 1 && n <= 1024; };
  if (numbers.size() < 2 || numbers.size() > 3 || !std::all_of(numbers.begin(), numbers.end(), possible))
    return entry.fail("no grid; write ROWSxCOLUMNS (2x3), ROWSxCOLUMNSxSAMPLES (2x2x2), or auto");
  settings.rows = numbers[0], settings.columns = numbers[1];
  settings.samples = numbers.size() == 3 ? numbers[2] : 1;
  return {};
}

base::Status read_groups(const Entry& entry, const char* which, Groups& groups) {
  groups.where = entry.where;
  if (entry.value == "auto") return {};
  if (entry.value == "each" || entry.value == "one") {
    groups.kind = entry.value == "each" ? Groups::Kind::kEach : Groups::Kind::kOne;
    return {};
  }
  groups.kind = Groups::Kind::kListed;
  for (const std::string& part : base::split(entry.value, ',')) {
    const auto number = base::to_integer(part);
    if (!number || *number < 0 || *number > kLargest)
      return entry.fail("'{}' is no layer number; list the {} layer of each group (0,4,8), or write auto, each or one", part, which);
    if (!groups.layers.empty() && groups.layers.back() >= *number)
      return entry.fail("layer {} stands after layer {}; list each layer once, in ascending order", *number, groups.layers.back());
    groups.layers.push_back(static_cast<int>(*number));
  }
  return {};
}

base::Status read_wire(const Entry& entry, Settings& settings) {
  if (entry.value != "fp32" && entry.value != "fp16")
    return entry.fail("no number format; write fp32, or fp16, which halves messages and rounds what they carry");
  settings.wire = entry.value == "fp16" ? plan::WireType::kFloat16 : plan::WireType::kFloat32;
  return {};
}

base::Status read_channels(const Entry& entry, Channels& channels) {
  using Kind = plan::LayoutRequest::Channels;
  channels = {};
  channels.where = entry.where;
  if (entry.value == "auto") return {};
  channels.kind = entry.value == "off" ? Kind::kOff : Kind::kNodes;
  if (channels.kind == Kind::kOff) return {};
  const std::string_view text = entry.value;
  const char* const end = text.data() + text.size();
  auto [rest, error] = std::from_chars(text.data(), end, channels.first);
  bool good = error == std::errc() && channels.first >= 0;
  if (good && rest != end) {
    const auto last =
        *rest == '-' ? std::from_chars(rest + 1, end, channels.last) : std::from_chars_result{rest, std::errc::invalid_argument};
    good = last.ec == std::errc() && last.ptr == end && channels.last >= channels.first;
  }
  return good ? base::Status() : entry.fail("no layers; write auto, off, the first layer (12), or the first and the last (12-14)");
}

// `when`: what makes auto on.
template <typename Choice>
base::Status read_choice(const Entry& entry, const char* when, Choice& choice) {
  if (entry.value == "on")
    choice = Choice::kOn;
  else if (entry.value == "off")
    choice = Choice::kOff;
  else if (entry.value == "auto")
    choice = Choice::kAuto;
  else
    return entry.fail("no such choice; write on, off, or auto (on when {})", when);
  return {};
}

base::Status read_backend(const Entry& entry, std::optional<kernels::Backend>& backend, std::string names = "auto") {
  backend.reset();
  if (entry.value == "auto") return {};
  const auto built = kernels::built_backends();
  for (const auto known : built) names += fmt::format(", {}", kernels::to_string(known));
  const auto named = kernels::backend_from_string(entry.value);
  if (!named) return entry.fail("no such backend; write one of {}", names);
  if (std::find(built.begin(), built.end(), *named) == built.end())
    return entry.fail("this program was built without it; write one of {}", names);
  backend = *named;
  return {};
}

using Reader = std::function<base::Status(const Entry&, Settings&)>;

std::map<std::string, Reader> readers(const std::string& file) {
  const auto folder = std::filesystem::path(file).parent_path();
  return {
      {"layers",
       [](const Entry& e, Settings& s) { return read_count(e, 1, "write how many layers to wrap, or remove the key", s.layers); }},
      {"workers", [folder](const Entry& e, Settings& s) { return read_workers(e, folder, s); }},
      {"grid", [](const Entry& e, Settings& s) { return read_grid(e, s); }},
      {"forward_groups", [](const Entry& e, Settings& s) { return read_groups(e, "first", s.forward_groups); }},
      {"backward_groups", [](const Entry& e, Settings& s) { return read_groups(e, "last", s.backward_groups); }},
      {"memory_mb", [](const Entry& e, Settings& s) { return read_count(e, 0, "write a limit in MB, or 0 for none", s.memory_mb); }},
      {"channels", [](const Entry& e, Settings& s) { return read_channels(e, s.channels); }},
      {"wire", [](const Entry& e, Settings& s) { return read_wire(e, s); }},
      {"recompute", [](const Entry& e, Settings& s) { return read_choice(e, "memory does not suffice otherwise", s.recompute); }},
      {"boundary_first", [](const Entry& e, Settings& s) { return read_choice(e, "that is forecast to be faster", s.boundary_first); }},
      {"threads",
       [](const Entry& e, Settings& s) {
         return e.value == "auto" ? base::Status() : read_count(e, 0, "write threads per device, or 0 for all cores", s.threads);
       }},
      {"backend", [](const Entry& e, Settings& s) { return read_backend(e, s.backend); }},
  };
}

// Layers as nodes; `always`: the first layer of the range (forward) or its last (backward), which every plan marks.
base::Result<std::optional<std::vector<int>>> nodes_of(const Groups& groups, const graph::Graph& graph, int always) {
  if (groups.kind == Groups::Kind::kAuto) return std::nullopt;
  std::vector<int> nodes;
  const int first = graph.first_layer();
  if (groups.kind == Groups::Kind::kEach)
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

base::Status set_channels(const Channels& channels, const graph::Graph& graph, plan::LayoutRequest& request) {
  request.channels = channels.kind;
  if (channels.kind != plan::LayoutRequest::Channels::kNodes) return {};
  const geometry::Index first = graph.first_layer(), offset = first - graph[graph.first_layer()].source;
  const geometry::Index begin = channels.first + offset, end = channels.last < 0 ? graph.size() : channels.last + offset + 1;
  if (begin < first || end > graph.size() || begin >= end)
    return base::error(ErrorCode::kInvalidArgument, "{}: not all of these layers are wrapped; name layers from {} to {}, or write auto",
                       channels.where, graph[graph.first_layer()].source, graph.layers.back().source);
  request.channel_nodes = {begin, end};
  return {};
}

}  // namespace

base::Result<Settings> read_settings(const cfg::DistributedSection& section) {
  Settings settings;
  const auto known = readers(section.file);
  for (const auto& [key, setting] : section.settings) {
    const auto reader = known.find(key);
    if (reader == known.end()) {
      std::vector<std::string> keys;
      for (const auto& [name, read] : known) keys.push_back(name);
      const std::string near = base::nearest(key, keys);
      return base::error(ErrorCode::kInvalidArgument, "{}:{}: [distributed] has no key '{}'; {}", section.file, setting.line, key,
                         near.empty() ? fmt::format("known keys: {}", fmt::join(keys, ", ")) : fmt::format("did you mean '{}'?", near));
    }
    const Entry entry{setting.value, fmt::format("{}:{}: {}={}", section.file, setting.line, key, setting.value)};
    TESSERA_TRY(reader->second(entry, settings));
  }
  return settings;
}

base::Status set_grid(Settings& settings, const std::string& value, const std::string& where) {
  settings.rows = settings.columns = 0, settings.samples = 1;
  return read_grid({value, where}, settings);
}

base::Status set_backend(Settings& settings, const std::string& value, const std::string& where) {
  return read_backend({value, where}, settings.backend, "stock, auto");
}

base::Result<plan::LayoutRequest> layout_request(const Settings& settings, const graph::Graph& graph) {
  plan::LayoutRequest request;
  request.rows = settings.rows, request.columns = settings.columns, request.samples = settings.samples;
  request.wire = settings.wire;
  request.recompute = settings.recompute;
  request.boundary_first = settings.boundary_first;
  TESSERA_TRY(set_channels(settings.channels, graph, request));
  TESSERA_ASSIGN(request.forward_starts, nodes_of(settings.forward_groups, graph, graph.first_layer()));
  TESSERA_ASSIGN(request.backward_ends, nodes_of(settings.backward_groups, graph, graph.size() - 1));
  return request;
}

}  // namespace tessera::distributed
