#include "cluster/planning.hpp"

#include <limits>

#include "program/compile.hpp"

namespace tessera::cluster {

namespace {

constexpr double kMebibyte = 1024.0 * 1024.0;

double needed_bytes(const program::Program& program) { return static_cast<double>(program.arena_bytes + program.parameter_bytes); }

}  // namespace

sim::DeviceProfile device_profile(sim::DeviceProfile base, const WorkerSpec& worker) {
  base.multiply_adds_per_second *= worker.speed;
  base.memory_bytes_per_second *= worker.speed;
  base.byte_seconds /= worker.speed;
  if (worker.memory_mb > 0) base.memory_bytes = worker.memory_mb * kMebibyte;
  return base;
}

Planning::Planning(PlanningInput input) : input_(std::move(input)) { input_.request.single_pass = input_.subdivisions == 1; }

sim::Forecast Planning::forecast(const plan::Plan& plan) const {
  return sim::simulate(input_.graph, program::compile(input_.graph, plan, program::Mode::kTrain), input_.profiles);
}

double Planning::cost(const plan::Plan& plan) const { return cost(plan, input_.profiles); }

double Planning::cost(const plan::Plan& plan, const std::vector<sim::DeviceProfile>& profiles) const {
  const auto f =
      sim::simulate(input_.graph, program::compile(input_.graph, plan, program::Mode::kTrain, program::Extent::kIteration), profiles);
  return f.fits ? f.seconds(input_.subdivisions) : std::numeric_limits<double>::infinity();
}

base::Result<plan::Layout> Planning::choose() const {
  const auto choose_among = [&](const std::vector<sim::DeviceProfile>& profiles) {
    return plan::choose_layout(input_.graph, input_.batch, input_.request, input_.devices, static_cast<int>(profiles.size()),
                               [&](const plan::Plan& plan) { return cost(plan, profiles); });
  };
  auto layout = choose_among(input_.profiles);
  if (layout || layout.error().code != base::ErrorCode::kOutOfMemory) return layout;
  auto unlimited = input_.profiles;
  for (auto& profile : unlimited) profile.memory_bytes = 0;
  return choose_among(unlimited);
}

base::Result<Planned> Planning::make(const plan::Layout& layout, program::Mode mode) const {
  Planned planned;
  planned.layout = layout;
  TESSERA_ASSIGN(planned.plan, plan::make_plan(input_.graph, input_.batch, layout));
  planned.programs = program::compile(input_.graph, planned.plan, mode);
  planned.forecast = sim::simulate(input_.graph, planned.programs, input_.profiles);
  return planned;
}

base::Status Planning::check_memory(const program::ProgramSet& programs) const {
  std::string table;
  bool fits = true;
  for (std::size_t p = 0; p < programs.programs.size(); ++p) {
    const double needed = needed_bytes(programs.programs[p]), limit = input_.profiles[p].memory_bytes;
    fits = fits && (limit <= 0 || needed <= limit);
    table += fmt::format("{}{} needs {:.0f}{} MB", table.empty() ? "" : ", ", input_.names[p], needed / kMebibyte,
                         limit > 0 ? fmt::format(" of {:.0f}", limit / kMebibyte) : "");
  }
  if (fits) return {};
  return base::error(base::ErrorCode::kOutOfMemory, "the plan does not fit: {}; use more workers, more subdivisions or a smaller image",
                     table);
}

std::optional<plan::SmallerCluster> Planning::fewer(double seconds) const {
  const auto members_cost = [&](const plan::Plan& plan, const std::vector<int>& members) {
    std::vector<sim::DeviceProfile> profiles;
    for (const int member : members) profiles.push_back(input_.profiles[static_cast<std::size_t>(member)]);
    return cost(plan, profiles);
  };
  return plan::faster_with_fewer(input_.graph, input_.batch, input_.request, input_.devices, seconds, members_cost);
}

}  // namespace tessera::cluster
