#include "cfg/distributed_keys.hpp"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <optional>

#include "base/check.hpp"
#include "base/text.hpp"

namespace tessera::cfg {

using base::ErrorCode;
using base::split;
using base::to_integer;

// One key's value and where it stands.
struct KeyEntry {
  const std::string& value;
  std::string where;
  std::filesystem::path folder;  // of the cfg

  template <typename... Args>
  tl::unexpected<base::Error> fail(fmt::format_string<Args...> format, Args&&... args) const {
    return base::error(ErrorCode::kInvalidArgument, "{}: {}", where, fmt::format(format, std::forward<Args>(args)...));
  }
};

namespace {

using Entry = KeyEntry;
using Settings = DistributedSettings;

constexpr long kLargest = 1 << 24;  // of any number here; a longer one is a slip of the pen

base::Status read_count(const Entry& entry, long least, const char* advice, int& target) {
  const auto number = base::to_integer(entry.value);
  if (!number || *number < least || *number > kLargest) return entry.fail("not a whole number of at least {}; {}", least, advice);
  target = static_cast<int>(*number);
  return {};
}

base::Status read_workers(const Entry& entry, Settings& settings) {
  if (entry.value == "none") return {};
  if (entry.value == "local" || entry.value.starts_with("local:")) {
    const auto number = entry.value == "local" ? std::nullopt : base::to_integer(entry.value.substr(6));
    if (!number || *number < 1 || *number > kMostLocalWorkers)
      return entry.fail("no number of worker processes; write local:N with N from 1 to {}, or none", kMostLocalWorkers);
    settings.local_workers = static_cast<int>(*number);
    return {};
  }
  const std::filesystem::path path = entry.folder / entry.value;
  std::error_code unreadable;
  if (!std::filesystem::is_regular_file(path, unreadable))
    return entry.fail("{} is no file; write local:N, none, or the path of a cluster file from the cfg's folder", path.string());
  settings.cluster_file = path.string();
  return {};
}

base::Status read_grid(const Entry& entry, Settings& settings) {
  settings.rows = settings.columns = 0, settings.samples = 1;
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
  groups = {};
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

base::Status read_channels(const Entry& entry, Channels& channels) {
  using Kind = Channels::Kind;
  channels = {};
  channels.where = entry.where;
  if (entry.value == "auto") return {};
  channels.kind = entry.value == "off" ? Kind::kOff : Kind::kListed;
  if (channels.kind == Kind::kOff) return {};
  const char* const end = entry.value.data() + entry.value.size();
  bool good = true;
  for (const char* rest = entry.value.data(); good; ++rest) {
    Channels::Run run;
    const auto number = [&](int& layer) {
      const auto [after, error] = std::from_chars(rest, end, layer);
      rest = after;
      return error == std::errc() && layer > (channels.runs.empty() ? -1 : channels.runs.back().last);
    };
    good = number(run.first);
    if (good && rest != end && *rest == '-') {
      ++rest;
      good = number(run.last) && run.last >= run.first;
    } else if (!channels.runs.empty() || rest != end) {
      run.last = run.first;
    }
    channels.runs.push_back(run);
    if (rest == end) break;
    good = good && *rest == ',';
  }
  return good ? base::Status()
              : entry.fail("no layers; write auto, off, the first layer (12), the first and the last (12-14), or a list (8,12-14)");
}

// `when`: what makes auto on.
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

base::Status read_wire(const Entry& entry, Settings& settings) {
  if (entry.value != "fp32" && entry.value != "fp16")
    return entry.fail("no number format; write fp32, or fp16, which halves messages and rounds what they carry");
  settings.half_wire = entry.value == "fp16";
  return {};
}

constexpr DistributedKey kKeys[] = {
    {"layers", "a number", "as many as can be, in general up to the loss", "how many layers after the section are wrapped",
     "who computes them",
     [](const Entry& e, Settings& s) { return read_count(e, 1, "write how many layers to wrap, or remove the key", s.layers); }},
    {"workers", "`local:N`, a cluster file, `none`", "`none`",
     "N processes on this machine; or the computers of a file beside the cfg; or this process alone", "who computes", read_workers},
    {"grid", "`auto`, `RxC`, `RxCxS`", "`auto`", "every map is cut into R rows and C columns of tiles, batches into S parts",
     "time, memory", read_grid},
    {"forward_groups", "`auto`, `each`, `one`, `0,8,10`", "`auto`",
     "the first layer of each fused group: between two of them nothing is fetched, overlaps are computed twice", "time, memory",
     [](const Entry& e, Settings& s) { return read_groups(e, "first", s.forward_groups); }},
    {"backward_groups", "`auto`, `each`, `one`, `5,9,15`", "`auto`", "the last layer of each fused group of back-propagation",
     "time, memory", [](const Entry& e, Settings& s) { return read_groups(e, "last", s.backward_groups); }},
    {"channels", "`auto`, `off`, `12`, `12-13`, `8,12-13`", "`auto`: where it pays, with `grid = auto`",
     "layers that are cut along channels instead (12: from there on)", "time, memory",
     [](const Entry& e, Settings& s) { return read_channels(e, s.channels); }},
    {"memory_mb", "MB", "0: what each device reports", "limit per device; a plan that needs more is refused", "which plan is chosen",
     [](const Entry& e, Settings& s) { return read_count(e, 0, "write a limit in MB, or 0 for none", s.memory_mb); }},
    {"recompute", "`auto`, `on`, `off`", "`auto`: when memory does not suffice otherwise",
     "the insides of fused groups are computed again in back-propagation instead of kept", "less memory, more time",
     [](const Entry& e, Settings& s) { return read_choice(e, "memory does not suffice otherwise", s.recompute); }},
    {"boundary_first", "`auto`, `on`, `off`", "`auto`: when the forecast is faster", "what neighbours wait for is computed and sent first",
     "time", [](const Entry& e, Settings& s) { return read_choice(e, "that is forecast to be faster", s.boundary_first); }},
    {"wire", "`fp32`, `fp16`", "`fp32`", "`fp16`: activations and deltas travel in half precision",
     "**results** (approximate), half the bytes", read_wire},
    {"threads", "a number, `auto`", "`auto`: the device's cores, divided among local workers", "per device", "time",
     [](const Entry& e, Settings& s) {
       return e.value == "auto" ? base::Status() : read_count(e, 0, "write threads per device, or 0 for all cores", s.threads);
     }},
    {"backend", "`auto`, `onednn`, `blas`, `reference`", "`auto`: the fastest as measured", "what computes convolutions",
     "time; results by rounding",
     [](const Entry& e, Settings& s) {
       s.backend_name = e.value, s.backend_where = e.where;
       return base::Status();
     }},
};

const DistributedKey* find_key(std::string_view name) {
  const auto found = std::find_if(std::begin(kKeys), std::end(kKeys), [&](const DistributedKey& key) { return key.name == name; });
  return found == std::end(kKeys) ? nullptr : found;
}

}  // namespace

std::span<const DistributedKey> distributed_keys() { return kKeys; }

base::Result<DistributedSettings> read_distributed_section(const DistributedSection& section) {
  Settings settings;
  for (const auto& [name, setting] : section.settings) {
    const DistributedKey* key = find_key(name);
    if (!key) {
      std::vector<std::string> names;
      for (const DistributedKey& known : kKeys) names.emplace_back(known.name);
      const std::string near = base::nearest(name, names);
      return base::error(ErrorCode::kInvalidArgument, "{}:{}: [distributed] has no key '{}'; {}", section.file, setting.line, name,
                         near.empty() ? fmt::format("known keys: {}", fmt::join(names, ", ")) : fmt::format("did you mean '{}'?", near));
    }
    TESSERA_TRY(key->read({setting.value, fmt::format("{}:{}: {}={}", section.file, setting.line, name, setting.value),
                           std::filesystem::path(section.file).parent_path()},
                          settings));
  }
  return settings;
}

base::Status set_key(DistributedSettings& settings, std::string_view name, const std::string& value, const std::string& where) {
  const DistributedKey* key = find_key(name);
  TESSERA_CHECK(key, "no key {}", name);
  return key->read({value, where, {}}, settings);
}

}  // namespace tessera::cfg
