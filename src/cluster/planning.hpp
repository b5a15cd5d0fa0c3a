// The planning room: what devices can do, what a plan costs on them and whether it fits, for a session and for `darknet plan` alike.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cluster/cluster_file.hpp"
#include "plan/planner.hpp"
#include "program/program.hpp"
#include "sim/simulator.hpp"

namespace tessera::cluster {

// What a device can do that is `worker.speed` times as fast as `base`: its computing and its memory; not its link.
sim::DeviceProfile device_profile(sim::DeviceProfile base, const WorkerSpec& worker);

// Everything that a plan is judged by.
struct PlanningInput {
  graph::Graph graph;
  geometry::Index batch = 1;  // images of one pass
  int subdivisions = 1;       // passes to an update
  plan::LayoutRequest request;
  std::vector<std::string> names;            // by participant
  std::vector<sim::DeviceProfile> profiles;  // by participant; memory_bytes 0: not limited
  std::vector<plan::Device> devices;         // those that may own boxes
};

struct Planned {
  plan::Layout layout;
  plan::Plan plan;
  program::ProgramSet programs;
  sim::Forecast forecast;
};

class Planning {
 public:
  explicit Planning(PlanningInput input);

  const PlanningInput& input() const { return input_; }
  // Seconds of an iteration; infinity when some device lacks memory.
  double cost(const plan::Plan& plan) const;
  sim::Forecast forecast(const plan::Plan& plan) const;

  // The best layout. Where nothing fits, the best of those that do not, so that check_memory() can say what is missing where.
  base::Result<plan::Layout> choose() const;
  // A layout as a plan with its programs.
  base::Result<Planned> make(const plan::Layout& layout, program::Mode mode) const;
  // kOutOfMemory with a table of who needs what when it does not fit.
  base::Status check_memory(const program::ProgramSet& programs) const;
  // Fewer devices that would be clearly faster than `seconds`.
  std::optional<plan::SmallerCluster> fewer(double seconds) const;

 private:
  double cost(const plan::Plan& plan, const std::vector<sim::DeviceProfile>& profiles) const;

  PlanningInput input_;
};

}  // namespace tessera::cluster
