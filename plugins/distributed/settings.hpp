// The [distributed] section of a cfg as values.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "darknet/training/engine.hpp"
#include "graph/graph.hpp"
#include "kernels/convolution.hpp"
#include "plan/planner.hpp"

namespace tessera::distributed {

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
  plan::LayoutRequest::Channels kind = plan::LayoutRequest::Channels::kAuto;
  int first = 0, last = -1;  // last -1: of the range
  std::string where;         // "file:line: key=value", for errors
};

struct Settings {
  int layers = 0;  // how many layers are wrapped; 0: as many as can be

  // At most one of the two is set; with neither, this process is the only device.
  int local_workers = 0;     // worker processes to start on this machine
  std::string cluster_file;  // path

  int rows = 0, columns = 0, samples = 1;  // of the grid; rows and columns 0: chosen
  Groups forward_groups, backward_groups;
  Channels channels;
  plan::WireType wire = plan::WireType::kFloat32;
  plan::LayoutRequest::Recompute recompute = plan::LayoutRequest::Recompute::kAuto;
  plan::LayoutRequest::BoundaryFirst boundary_first = plan::LayoutRequest::BoundaryFirst::kAuto;

  int memory_mb = 0;                        // limit of every device; 0: what it reports
  int threads = 0;                          // of every device; 0: cores, divided among local workers
  std::optional<kernels::Backend> backend;  // none: measured
};

inline constexpr int kMostLocalWorkers = 64;

// Errors are `file:line: key=value: what; what to do`.
[[nodiscard]] base::Result<Settings> read_settings(const cfg::DistributedSection& section);

// Sets the grid from `value` as the section's `grid` key does; `where` begins the error ("-grid 2x3").
[[nodiscard]] base::Status set_grid(Settings& settings, const std::string& value, const std::string& where);

// Sets the backend from `value` as the section's `backend` key does.
[[nodiscard]] base::Status set_backend(Settings& settings, const std::string& value, const std::string& where);

// What the settings ask of the planner, with layer numbers as nodes of `graph`. Errors: a group names a layer that is
// not wrapped.
[[nodiscard]] base::Result<plan::LayoutRequest> layout_request(const Settings& settings, const graph::Graph& graph);

}  // namespace tessera::distributed
