// `darknet plan`: how a cfg would be cut over a cluster and what that would take, without weights, data or workers.
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <thread>

#include "cluster/cluster_file.hpp"
#include "darknet/commands/commands.hpp"
#include "darknet/upstream/dialect.hpp"
#include "darknet/upstream/network_file.hpp"
#include "plan/planner.hpp"
#include "plugins/distributed/network_graph.hpp"
#include "plugins/distributed/settings.hpp"
#include "program/compile.hpp"
#include "program/print.hpp"
#include "sim/profiles.hpp"
#include "sim/simulator.hpp"

namespace tessera::darknet {
namespace {

using base::ErrorCode;
using program::Mode;

constexpr double kMebibyte = 1024.0 * 1024.0;
constexpr long kMostWorkers = 1023;
constexpr long kMostImages = 4096;

// The part of a network that is planned, and how often it is gone through.
struct Subject {
  graph::Graph graph;
  distributed::Settings settings;
  long batch = 1;  // images of one pass
  long subdivisions = 1;
};

// The participants and what they can do; participant 0 is the coordinator.
struct Cluster {
  std::string profile;
  program::Names names = {"coordinator"};
  std::vector<sim::DeviceProfile> profiles;
  std::vector<plan::Device> devices;

  int participants() const { return static_cast<int>(profiles.size()); }
};

struct Outcome {
  plan::Layout layout;
  plan::Plan plan;
  program::ProgramSet programs;
  sim::Forecast forecast;
};

// Upstream allocates tensors for a whole batch while it parses; shapes need none.
void shrink_batch(cfg::CfgFile& file) {
  for (cfg::CfgOption& option : file.sections.front().options)
    if (option.key == "batch" || option.key == "subdivisions") option.value = "1";
}

base::Result<Subject> read_subject(const Arguments& arguments) {
  TESSERA_ASSIGN(cfg::CfgFile file, cfg::read_cfg_file(arguments.operand(0)));
  TESSERA_ASSIGN(cfg::Cfg cfg, cfg::check_cfg(std::move(file)));
  Subject subject;
  const cfg::CfgSection& net_section = cfg.file.sections.front();
  subject.subdivisions = std::max(1L, net_section.integer("subdivisions", 1));
  subject.batch = arguments.integer("batch", net_section.integer("batch", 1) / subject.subdivisions);
  if (subject.batch < 1 || subject.batch > kMostImages)
    return base::error(ErrorCode::kInvalidArgument, "-batch {}: a pass takes 1 to {} images", subject.batch, kMostImages);

  cfg::DistributedSection& section = cfg.distributed;
  section.file = cfg.file.path;
  if (arguments.has("workers")) section.settings.erase("workers");
  TESSERA_ASSIGN(subject.settings, distributed::read_settings(section));
  if (arguments.has("grid")) {
    const std::string grid = arguments.text("grid");
    TESSERA_TRY(cfg::set_key(subject.settings, "grid", grid, "-grid " + grid));
  }

  shrink_batch(cfg.file);
  TESSERA_ASSIGN(const auto net, parse_network(cfg));
  use_true_gradients(net.get());
  TESSERA_ASSIGN(auto range, distributed::wrappable_range(*net, section.first_layer));
  if (subject.settings.layers > 0) range.end = range.begin + subject.settings.layers;
  TESSERA_ASSIGN(subject.graph, distributed::network_graph(*net, range));
  return subject;
}

base::Result<sim::DeviceProfile> profile_of(const std::string& name, std::size_t workers) {
  const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  if (name == "local") return sim::same_machine_profile(cores, static_cast<int>(std::max<std::size_t>(1, workers)));
  return sim::named_profile(name);
}

base::Result<std::vector<cluster::WorkerSpec>> read_workers(const Arguments& arguments, const distributed::Settings& settings) {
  if (!settings.cluster_file.empty()) return cluster::read_cluster_file(settings.cluster_file);
  const long count = arguments.integer("workers", settings.local_workers);
  if (count < 0 || count > kMostWorkers)
    return base::error(ErrorCode::kInvalidArgument, "-workers {}: 0 (this process alone) to {} workers can be planned", count,
                       kMostWorkers);
  std::vector<cluster::WorkerSpec> workers(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < workers.size(); ++i) workers[i].name = fmt::format("worker {}", i + 1);
  return workers;
}

base::Result<Cluster> read_cluster(const Arguments& arguments, const distributed::Settings& settings) {
  TESSERA_ASSIGN(const auto workers, read_workers(arguments, settings));
  Cluster cluster;
  const bool on_this_machine = workers.empty() || settings.local_workers > 0;
  cluster.profile = arguments.text("profile", on_this_machine ? "local" : "pi3");
  TESSERA_ASSIGN(sim::DeviceProfile base, profile_of(cluster.profile, workers.size()));
  if (settings.memory_mb > 0) base.memory_bytes = settings.memory_mb * kMebibyte;
  cluster.profiles.push_back(base);
  for (const cluster::WorkerSpec& worker : workers) {
    sim::DeviceProfile profile = base;
    profile.multiply_adds_per_second *= worker.speed;
    profile.memory_bytes_per_second *= worker.speed;
    if (worker.memory_mb > 0) profile.memory_bytes = worker.memory_mb * kMebibyte;
    cluster.devices.push_back({cluster.participants(), worker.speed});
    cluster.names.push_back(worker.name);
    cluster.profiles.push_back(profile);
  }
  if (cluster.devices.empty()) cluster.devices.push_back({0, 1.0});
  return cluster;
}

sim::Forecast forecast(const Subject& subject, const plan::Plan& plan, const std::vector<sim::DeviceProfile>& profiles) {
  return sim::simulate(subject.graph, program::compile(subject.graph, plan, Mode::kTrain), profiles);
}

double cost(const Subject& subject, const plan::Plan& plan, const std::vector<sim::DeviceProfile>& profiles) {
  const sim::Forecast f = forecast(subject, plan, profiles);
  return f.fits ? f.seconds(static_cast<int>(subject.subdivisions)) : std::numeric_limits<double>::infinity();
}

base::Result<Outcome> make_outcome(const Subject& subject, const Cluster& cluster, const plan::LayoutRequest& request, Mode mode) {
  Outcome outcome;
  TESSERA_ASSIGN(outcome.layout, plan::choose_layout(subject.graph, subject.batch, request, cluster.devices, cluster.participants(),
                                                     [&](const plan::Plan& plan) { return cost(subject, plan, cluster.profiles); }));
  TESSERA_ASSIGN(outcome.plan, plan::make_plan(subject.graph, subject.batch, outcome.layout));
  outcome.programs = program::compile(subject.graph, outcome.plan, mode);
  outcome.forecast = sim::simulate(subject.graph, outcome.programs, cluster.profiles);
  return outcome;
}

std::optional<plan::SmallerCluster> smaller_cluster(const Subject& subject, const Cluster& cluster, const plan::LayoutRequest& request,
                                                    const sim::Forecast& all) {
  const auto members_cost = [&](const plan::Plan& plan, const std::vector<int>& members) {
    std::vector<sim::DeviceProfile> profiles;
    for (const int member : members) profiles.push_back(cluster.profiles[static_cast<std::size_t>(member)]);
    return cost(subject, plan, profiles);
  };
  return plan::faster_with_fewer(subject.graph, subject.batch, request, cluster.devices,
                                 all.seconds(static_cast<int>(subject.subdivisions)), members_cost);
}

std::vector<int> sources(const graph::Graph& graph, const std::vector<int>& nodes) {
  std::vector<int> layers;
  for (const int node : nodes) layers.push_back(graph[node].source);
  return layers;
}

// Of the device that needs most, for tensors, weights, gradients and momentum.
double largest_memory(const sim::Forecast& f) {
  std::size_t largest = 0;
  for (const sim::DeviceForecast& d : f.devices) largest = std::max(largest, d.arena_bytes + d.parameter_bytes);
  return static_cast<double>(largest);
}

// What recomputation costs and saves, against the same without it.
void print_recompute(const Subject& subject, const Cluster& cluster, plan::LayoutRequest request, const Outcome& outcome) {
  using Recompute = plan::LayoutRequest::Recompute;
  const bool on = outcome.plan.recompute;
  request.recompute = on ? Recompute::kOff : Recompute::kOn;
  const auto other = make_outcome(subject, cluster, request, Mode::kTrain);
  const int subdivisions = static_cast<int>(subject.subdivisions);
  fmt::print("recompute = {}: {:.1f} MB on the device that needs most, {:.3f} s an iteration", on ? "on" : "off",
             largest_memory(outcome.forecast) / kMebibyte, outcome.forecast.seconds(subdivisions));
  if (other)
    fmt::print(" ({}: {:.1f} MB, {:.3f} s)", on ? "off" : "on", largest_memory(other->forecast) / kMebibyte,
               other->forecast.seconds(subdivisions));
  fmt::print("\n");
}

// What it brings that boundaries are computed first, against the same plan without or with it.
void print_boundary_first(const Subject& subject, const Cluster& cluster, const Outcome& outcome) {
  plan::Plan other = outcome.plan;
  other.boundary_first = !other.boundary_first;
  const auto name = [](const plan::Plan& plan) { return plan.boundary_first ? "on" : "off"; };
  const auto seconds = [&](const sim::Forecast& f) { return f.seconds(static_cast<int>(subject.subdivisions)); };
  fmt::print("boundary_first = {}: {:.3f} s an iteration ({}: {:.3f} s)\n", name(outcome.plan), seconds(outcome.forecast), name(other),
             seconds(forecast(subject, other, cluster.profiles)));
}

void print_forecast(const Subject& subject, const Cluster& cluster, const Outcome& outcome, Mode mode) {
  const sim::Forecast& f = outcome.forecast;
  fmt::print("{:<18}  {:>9} {:>10} {:>11} {:>11} {:>10} {:>9}\n", "forecast", "busy s", "waiting s", "sent MB", "received MB", "memory MB",
             "limit MB");
  for (std::size_t p = 0; p < f.devices.size(); ++p) {
    const sim::DeviceForecast& d = f.devices[p];
    const double limit = cluster.profiles[p].memory_bytes / kMebibyte;
    fmt::print("{:<18}  {:>9.3f} {:>10.3f} {:>11.2f} {:>11.2f} {:>10.1f} {:>9}\n", cluster.names[p], d.busy_seconds, d.waiting_seconds,
               static_cast<double>(d.sent_bytes) / kMebibyte, static_cast<double>(d.received_bytes) / kMebibyte,
               static_cast<double>(d.arena_bytes + d.parameter_bytes) / kMebibyte, limit > 0 ? fmt::format("{:.0f}", limit) : "none");
  }
  if (mode == Mode::kTest) {
    fmt::print("a pass over {} image{} would take {:.3f} s on devices like '{}' (assumed, not measured)\n", subject.batch,
               subject.batch == 1 ? "" : "s", f.forward_seconds, cluster.profile);
    return;
  }
  const int subdivisions = static_cast<int>(subject.subdivisions);
  const double seconds = f.seconds(subdivisions);
  fmt::print("memory: tensors, weights, gradients and momentum; time and bytes: one pass forward and backward, and the reduction\n\n");
  fmt::print(
      "an iteration of {} x {} images would take {:.3f} s = {} x ({:.3f} forward + {:.3f} backward) + {:.3f} reduction and update:\n"
      "{:.2f} images/s on devices like '{}' (assumed, not measured)\n",
      subdivisions, subject.batch, seconds, subdivisions, f.forward_seconds, f.backward_seconds, f.reduce_seconds,
      static_cast<double>(subject.batch * subdivisions) / seconds, cluster.profile);
}

void print_outcome(const Subject& subject, const Cluster& cluster, const Outcome& outcome, Mode mode) {
  const auto& grid = outcome.layout.grid;
  fmt::print("layers {} to {}, {} image{} a pass, {} device{}, grid {} rows x {} columns x {} samples\n",
             subject.graph[subject.graph.first_layer()].source, subject.graph.layers.back().source, subject.batch,
             subject.batch == 1 ? "" : "s", cluster.devices.size(), cluster.devices.size() == 1 ? "" : "s", grid.rows.size(),
             grid.columns.size(), grid.samples.size());
  const auto& cut = outcome.layout.channel_nodes;
  const auto source = [&](geometry::Index node) { return subject.graph[static_cast<int>(node)].source; };
  fmt::print("channels = {}\n", cut.empty() ? "off" : fmt::format("{}-{}", source(cut.begin), source(cut.end - 1)));
  fmt::print("forward_groups = {}\nbackward_groups = {}\n\n", fmt::join(sources(subject.graph, outcome.plan.forward_starts), ","),
             fmt::join(sources(subject.graph, outcome.plan.backward_ends), ","));
  fmt::print("{}\n{}\n", program::layers_table(subject.graph, outcome.plan),
             program::devices_table(subject.graph, outcome.plan, outcome.programs, cluster.names));
  print_forecast(subject, cluster, outcome, mode);
}

nlohmann::json outcome_json(const Subject& subject, const Cluster& cluster, const Outcome& outcome) {
  const sim::Forecast& f = outcome.forecast;
  auto devices = nlohmann::json::array();
  for (std::size_t p = 0; p < f.devices.size(); ++p) {
    const sim::DeviceForecast& d = f.devices[p];
    devices.push_back({{"name", cluster.names[p]},
                       {"busy_seconds", d.busy_seconds},
                       {"waiting_seconds", d.waiting_seconds},
                       {"sent_bytes", d.sent_bytes},
                       {"received_bytes", d.received_bytes},
                       {"sent_messages", d.sent_messages},
                       {"multiply_adds", d.multiply_adds},
                       {"arena_bytes", d.arena_bytes},
                       {"parameter_bytes", d.parameter_bytes},
                       {"memory_limit_bytes", cluster.profiles[p].memory_bytes}});
  }
  const auto& grid = outcome.layout.grid;
  const auto& cut = outcome.layout.channel_nodes;
  auto channels = nlohmann::json::array();
  for (auto node = cut.begin; node < cut.end; ++node) channels.push_back(subject.graph[static_cast<int>(node)].source);
  return {{"channels", channels},
          {"grid", {{"rows", grid.rows.size()}, {"columns", grid.columns.size()}, {"samples", grid.samples.size()}}},
          {"forward_groups", sources(subject.graph, outcome.plan.forward_starts)},
          {"backward_groups", sources(subject.graph, outcome.plan.backward_ends)},
          {"recompute", outcome.plan.recompute},
          {"boundary_first", outcome.plan.boundary_first},
          {"plan", plan::to_json(outcome.plan)},
          {"forecast",
           {{"profile", cluster.profile},
            {"forward_seconds", f.forward_seconds},
            {"backward_seconds", f.backward_seconds},
            {"reduce_seconds", f.reduce_seconds},
            {"subdivisions", subject.subdivisions},
            {"iteration_seconds", f.seconds(static_cast<int>(subject.subdivisions))},
            {"fits", f.fits},
            {"devices", devices}}}};
}

base::Status check_memory(const Cluster& cluster, const sim::Forecast& f) {
  for (std::size_t p = 0; p < f.devices.size() && !f.fits; ++p) {
    const double needed = static_cast<double>(f.devices[p].arena_bytes + f.devices[p].parameter_bytes),
                 limit = cluster.profiles[p].memory_bytes;
    if (limit > 0 && needed > limit)
      return base::error(ErrorCode::kOutOfMemory,
                         "{} needs {:.0f} MB and has {:.0f}; use more workers, more subdivisions or a smaller image", cluster.names[p],
                         needed / kMebibyte, limit / kMebibyte);
  }
  return {};
}

}  // namespace

base::Result<int> run_plan(const Arguments& arguments) {
  TESSERA_ASSIGN(const Subject subject, read_subject(arguments));
  TESSERA_ASSIGN(const Cluster cluster, read_cluster(arguments, subject.settings));
  TESSERA_ASSIGN(plan::LayoutRequest request, distributed::layout_request(subject.settings, subject.graph));
  request.single_pass = subject.subdivisions == 1;
  const Mode mode = arguments.has("test") ? Mode::kTest : Mode::kTrain;
  TESSERA_ASSIGN(const Outcome outcome, make_outcome(subject, cluster, request, mode));
  if (arguments.has("json")) {
    fmt::print("{}\n", outcome_json(subject, cluster, outcome).dump());
  } else {
    print_outcome(subject, cluster, outcome, mode);
    if (mode == Mode::kTrain) print_recompute(subject, cluster, request, outcome);
    if (mode == Mode::kTrain && cluster.devices.size() > 1) print_boundary_first(subject, cluster, outcome);
    if (mode == Mode::kTrain)
      if (const auto fewer = smaller_cluster(subject, cluster, request, outcome.forecast))
        fmt::print("note: the fastest {} of these {} devices alone would be faster: {:.3f} s an iteration\n", fewer->devices,
                   cluster.devices.size(), fewer->seconds);
  }
  if (arguments.has("print") && !arguments.has("json"))
    for (int p = 0; p < cluster.participants(); ++p)
      fmt::print("\n{}", program::program_text(subject.graph, outcome.programs, p, cluster.names));
  TESSERA_TRY(check_memory(cluster, outcome.forecast));
  return 0;
}

}  // namespace tessera::darknet
