// Chooses how to cut: what the cfg leaves open is searched for the layout that a cost function likes best.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "plan/plan.hpp"

namespace tessera::plan {

// A device that may own boxes.
struct Device {
  int participant = 0;
  double speed = 1.0;  // relative; equal speeds give equal shares
};

struct LayoutRequest {
  // Grid of tiles; rows and columns 0: chosen, samples too. Otherwise rows * columns * samples is the number of devices.
  int rows = 0, columns = 0, samples = 1;
  // Groups as nodes (empty: every layer its own group); nothing: chosen.
  std::optional<std::vector<int>> forward_starts;
  std::optional<std::vector<int>> backward_ends;
  WireType wire = WireType::kFloat32;
  // Whether layers are cut along channels instead of by the grid, and which.
  enum class Channels {
    kOff,
    kAuto,   // where it pays, when the grid is chosen as well
    kNodes,  // `channel_nodes`
  };
  Channels channels = Channels::kOff;
  std::vector<geometry::Range> channel_nodes;  // ascending, disjoint
  // Whether the insides of forward groups are computed again in back-propagation (Plan::recompute).
  enum class Recompute {
    kOff,
    kAuto,  // when nothing fits into memory without it
    kOn,    // and groups that are left open end where maps become smaller: little is kept, and little lives at a time
  };
  Recompute recompute = Recompute::kOff;
  // Whether what others wait for is computed first (Plan::boundary_first).
  enum class BoundaryFirst {
    kOff,
    kAuto,  // when it is faster by half a hundredth or more
    kOn,
  };
  BoundaryFirst boundary_first = BoundaryFirst::kOff;
  bool single_pass = false;  // Plan::single_pass
  int host = 0;              // Plan::host
};

// Seconds one iteration takes under a plan; infinity when it is not possible (too much memory). Provided by the caller
// (sim/), so that what is optimised is what is simulated.
using Cost = std::function<double(const Plan&)>;

// The most plans whose cost one choice looks at.
inline constexpr int kMostEvaluations = 300;

// Layouts for `devices` (at least one, speeds > 0) of `participants` in all. Deterministic. Errors: a request that
// cannot be met (a grid of another number of cells, groups outside the range), and where something is left open, nothing
// possible found. A request that leaves nothing open is met whatever it costs.
base::Result<Layout> choose_layout(const graph::Graph& graph, Index batch, const LayoutRequest& request, const std::vector<Device>& devices,
                                   int participants, const Cost& cost);

// The fastest `devices` of some number smaller than all, and what they would take.
struct SmallerCluster {
  int devices = 0;
  double seconds = 0;
};

// The cost of a plan for a session of `members` only: the plan's participant p is participant members[p] of the whole, the host first.
using MembersCost = std::function<double(const Plan&, const std::vector<int>& members)>;

// Whether a session with fewer of the devices (and the coordinator) would be clearly faster, by a twentieth or more, than
// the `seconds` that all of them take: then the others cost more in messages than they bring in computation. A grid is
// chosen, whatever the request says. For the caller to tell the user; changes nothing.
std::optional<SmallerCluster> faster_with_fewer(const graph::Graph& graph, Index batch, const LayoutRequest& request,
                                                const std::vector<Device>& devices, double seconds, const MembersCost& cost);

}  // namespace tessera::plan
