// The keys of [distributed] and what they are read into. A key is one row of the table in distributed_keys.cpp (and a
// member here); README.md's table is made from it (`make tables`).
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "cfg/distributed_section.hpp"

namespace tessera::cfg {

// How the range is divided into fused groups, in Darknet's absolute layer numbers.
struct Groups {
  enum class Kind {
    kAuto,    // chosen by the planner
    kEach,    // every layer is a group of its own
    kOne,     // one group
    kListed,  // `layers`: forward the first, backward the last layer of each group; ascending
  };
  Kind kind = Kind::kAuto;
  std::vector<int> layers;
  std::string where;  // "file:line: key=value", for errors
};

// Layers that are cut along channels.
struct Channels {
  enum class Kind { kAuto, kOff, kListed };
  Kind kind = Kind::kAuto;
  struct Run {
    int first = 0, last = -1;  // last -1: of the range
  };
  std::vector<Run> runs;  // ascending
  std::string where;
};

enum class Choice { kAuto, kOn, kOff };

struct DistributedSettings {
  int layers = 0;  // how many layers are wrapped; 0: as many as can be

  // At most one of the two is set; with neither, this process is the only device.
  int local_workers = 0;     // worker processes to start on this machine
  std::string cluster_file;  // path

  int rows = 0, columns = 0, samples = 1;  // of the grid; rows and columns 0: chosen
  Groups forward_groups, backward_groups;
  Channels channels;
  bool half_wire = false;  // activations and deltas travel in half precision
  Choice recompute = Choice::kAuto, boundary_first = Choice::kAuto;

  int memory_mb = 0;          // limit of every device; 0: what it reports
  int threads = 0;            // of every device; 0: cores, divided among local workers
  std::string backend_name;   // "auto": measured; judged by who knows the backends
  std::string backend_where;  // "file:line: key=value", for errors
};

inline constexpr int kMostLocalWorkers = 64;

struct KeyEntry;
struct DistributedKey {
  std::string_view name, values, fallback, meaning, changes;
  base::Status (*read)(const KeyEntry& entry, DistributedSettings& settings);
};
std::span<const DistributedKey> distributed_keys();

// Errors are `file:line: key=value: what; what to do`.
[[nodiscard]] base::Result<DistributedSettings> read_distributed_section(const DistributedSection& section);

// Sets one key as the section does; `where` begins the error ("-grid 2x3").
[[nodiscard]] base::Status set_key(DistributedSettings& settings, std::string_view key, const std::string& value, const std::string& where);

}  // namespace tessera::cfg
