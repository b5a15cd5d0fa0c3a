// The [distributed] section of a cfg as values.
#pragma once

#include <optional>
#include <string>

#include "base/result.hpp"
#include "cfg/distributed_keys.hpp"
#include "graph/graph.hpp"
#include "kernels/convolution.hpp"
#include "plan/planner.hpp"

namespace tessera::distributed {

struct Settings : cfg::DistributedSettings {
  std::optional<kernels::Backend> backend;  // none: measured
};

// Errors are `file:line: key=value: what; what to do`.
[[nodiscard]] base::Result<Settings> read_settings(const cfg::DistributedSection& section);

// Sets the backend from `value` as the section's `backend` key does.
[[nodiscard]] base::Status set_backend(Settings& settings, const std::string& value, const std::string& where);

// What the settings ask of the planner, with layer numbers as nodes of `graph`. Errors: a group names a layer that is
// not wrapped.
[[nodiscard]] base::Result<plan::LayoutRequest> layout_request(const Settings& settings, const graph::Graph& graph);

}  // namespace tessera::distributed
