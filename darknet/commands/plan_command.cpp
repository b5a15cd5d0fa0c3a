// `darknet plan`: how a cfg would be cut over a cluster and what that would take, without weights, data or workers.
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <thread>

#include "cfg/cfg_limits.hpp"
#include "cluster/planning.hpp"
#include "darknet/commands/commands.hpp"
#include "darknet/commands/plan_split.hpp"
#include "darknet/upstream/dialect.hpp"
#include "darknet/upstream/network_file.hpp"
#include "plugins/distributed/network_graph.hpp"
#include "plugins/distributed/settings.hpp"
#include "program/print.hpp"
#include "sim/profiles.hpp"

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

// The profile that devices are planned with, and the room that plans.
struct Cluster {
  std::string profile;
  cluster::Planning planning;

  const cluster::PlanningInput& input() const { return planning.input(); }
};

using Outcome = cluster::Planned;

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

  cfg::set_batch_of_one(cfg.file);  // upstream allocates tensors for a whole batch while it parses; shapes need none
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

base::Result<Cluster> read_cluster(const Arguments& arguments, const Subject& subject) {
  TESSERA_ASSIGN(const auto workers, read_workers(arguments, subject.settings));
  const bool on_this_machine = workers.empty() || subject.settings.local_workers > 0;
  const std::string profile = arguments.text("profile", on_this_machine ? "local" : "pi3");
  TESSERA_ASSIGN(sim::DeviceProfile base, profile_of(profile, workers.size()));
  if (subject.settings.memory_mb > 0) base.memory_bytes = subject.settings.memory_mb * kMebibyte;
  cluster::PlanningInput input{subject.graph, subject.batch, static_cast<int>(subject.subdivisions), {}, {"coordinator"}, {base}, {}};
  TESSERA_ASSIGN(input.request, distributed::layout_request(subject.settings, subject.graph));
  for (const cluster::WorkerSpec& worker : workers) {
    input.devices.push_back({static_cast<int>(input.profiles.size()), worker.speed});
    input.names.push_back(worker.name);
    input.profiles.push_back(cluster::device_profile(base, worker));
  }
  if (input.devices.empty()) input.devices.push_back({0, 1.0});
  return Cluster{profile, cluster::Planning(std::move(input))};
}

base::Result<Outcome> make_outcome(const cluster::Planning& planning, Mode mode) {
  TESSERA_ASSIGN(const plan::Layout layout, planning.choose());
  return planning.make(layout, mode);
}

std::vector<int> sources(const graph::Graph& graph, const std::vector<int>& nodes) {
  std::vector<int> layers;
  for (const int node : nodes) layers.push_back(graph[node].source);
  return layers;
}

// Layers of segments that are cut along channels.
std::vector<int> channel_layers(const graph::Graph& graph, const plan::Plan& plan) {
  std::vector<int> layers;
  for (int node = graph.first_layer(); node < graph.size(); ++node)
    for (const geometry::Box& box : plan.owned[static_cast<std::size_t>(node)])
      if (!box.empty() && box.c.size() != graph[node].out.c) {
        layers.push_back(graph[node].source);
        break;
      }
  return layers;
}

// As the key `channels` takes them.
std::string runs_text(const std::vector<int>& layers) {
  std::string text;
  for (std::size_t i = 0, last = 0; i < layers.size(); i = last + 1) {
    for (last = i; last + 1 < layers.size() && layers[last + 1] == layers[last] + 1;) ++last;
    text += fmt::format("{}{}-{}", text.empty() ? "" : ",", layers[i], layers[last]);
  }
  return text;
}

// Of the device that needs most, for tensors, weights and momentum.
double largest_memory(const sim::Forecast& f) {
  std::size_t largest = 0;
  for (const sim::DeviceForecast& d : f.devices) largest = std::max(largest, d.arena_bytes + d.parameter_bytes);
  return static_cast<double>(largest);
}

// What recomputation costs and saves, against the same without it.
void print_recompute(const Subject& subject, const Cluster& cluster, const Outcome& outcome) {
  using Recompute = plan::LayoutRequest::Recompute;
  const bool on = outcome.plan.recompute;
  cluster::PlanningInput input = cluster.input();
  input.request.recompute = on ? Recompute::kOff : Recompute::kOn;
  const auto other = make_outcome(cluster::Planning(std::move(input)), Mode::kTrain);
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
             seconds(cluster.planning.forecast(other)));
}

void print_forecast(const Subject& subject, const Cluster& cluster, const Outcome& outcome, Mode mode) {
  const sim::Forecast& f = outcome.forecast;
  fmt::print("{:<18}  {:>9} {:>10} {:>11} {:>11} {:>10} {:>9}\n", "forecast", "busy s", "waiting s", "sent MB", "received MB", "memory MB",
             "limit MB");
  for (std::size_t p = 0; p < f.devices.size(); ++p) {
    const sim::DeviceForecast& d = f.devices[p];
    const double limit = cluster.input().profiles[p].memory_bytes / kMebibyte;
    fmt::print("{:<18}  {:>9.3f} {:>10.3f} {:>11.2f} {:>11.2f} {:>10.1f} {:>9}\n", cluster.input().names[p], d.busy_seconds,
               d.waiting_seconds, static_cast<double>(d.sent_bytes) / kMebibyte, static_cast<double>(d.received_bytes) / kMebibyte,
               static_cast<double>(d.arena_bytes + d.parameter_bytes) / kMebibyte, limit > 0 ? fmt::format("{:.0f}", limit) : "none");
  }
  if (mode == Mode::kTest) {
    fmt::print("a pass over {} image{} would take {:.3f} s on devices like '{}' (assumed, not measured)\n", subject.batch,
               subject.batch == 1 ? "" : "s", f.forward_seconds, cluster.profile);
    return;
  }
  const int subdivisions = static_cast<int>(subject.subdivisions);
  const double seconds = f.seconds(subdivisions);
  fmt::print("memory: tensors, weights and momentum; time and bytes: one pass forward and backward, and the reduction\n\n");
  fmt::print(
      "an iteration of {} x {} images would take {:.3f} s = {} x ({:.3f} forward + {:.3f} backward) + {:.3f} reduction and update:\n"
      "{:.2f} images/s on devices like '{}' (assumed, not measured)\n",
      subdivisions, subject.batch, seconds, subdivisions, f.forward_seconds, f.backward_seconds, f.reduce_seconds,
      static_cast<double>(subject.batch * subdivisions) / seconds, cluster.profile);
}

void print_outcome(const Subject& subject, const Cluster& cluster, const Outcome& outcome, Mode mode) {
  const auto& grid = outcome.layout.segments.front().cut;
  fmt::print("layers {} to {}, {} image{} a pass, {} device{}, grid {} rows x {} columns x {} samples\n",
             subject.graph[subject.graph.first_layer()].source, subject.graph.layers.back().source, subject.batch,
             subject.batch == 1 ? "" : "s", cluster.input().devices.size(), cluster.input().devices.size() == 1 ? "" : "s",
             grid.rows.size(), grid.columns.size(), grid.samples.size());
  const auto channels = channel_layers(subject.graph, outcome.plan);
  fmt::print("channels = {}\n", channels.empty() ? "off" : runs_text(channels));
  fmt::print("forward_groups = {}\nbackward_groups = {}\n\n", fmt::join(sources(subject.graph, outcome.plan.forward_starts), ","),
             fmt::join(sources(subject.graph, outcome.plan.backward_ends), ","));
  fmt::print("{}\n{}\n", program::layers_table(subject.graph, outcome.plan),
             program::devices_table(subject.graph, outcome.plan, outcome.programs, cluster.input().names));
  print_forecast(subject, cluster, outcome, mode);
}

nlohmann::json outcome_json(const Subject& subject, const Cluster& cluster, const Outcome& outcome) {
  const sim::Forecast& f = outcome.forecast;
  auto devices = nlohmann::json::array();
  for (std::size_t p = 0; p < f.devices.size(); ++p) {
    const sim::DeviceForecast& d = f.devices[p];
    devices.push_back({{"name", cluster.input().names[p]},
                       {"busy_seconds", d.busy_seconds},
                       {"waiting_seconds", d.waiting_seconds},
                       {"sent_bytes", d.sent_bytes},
                       {"received_bytes", d.received_bytes},
                       {"sent_messages", d.sent_messages},
                       {"multiply_adds", d.multiply_adds},
                       {"arena_bytes", d.arena_bytes},
                       {"parameter_bytes", d.parameter_bytes},
                       {"memory_limit_bytes", cluster.input().profiles[p].memory_bytes}});
  }
  const auto& grid = outcome.layout.segments.front().cut;
  const auto channels = channel_layers(subject.graph, outcome.plan);
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

base::Result<int> split_plan(const Arguments& arguments, Subject& subject) {
  if (arguments.has("cluster")) subject.settings.cluster_file = arguments.text("cluster");
  TESSERA_ASSIGN(const auto workers, read_workers(arguments, subject.settings));
  cluster::ServerSpec server;
  if (!subject.settings.cluster_file.empty()) {
    TESSERA_ASSIGN(server, cluster::read_server(subject.settings.cluster_file));
  }
  TESSERA_ASSIGN(const sim::DeviceProfile profile, profile_of(arguments.text("profile", "pi3"), workers.size()));
  return run_split_plan(arguments, subject.graph, subject.batch, workers, server, profile);
}

}  // namespace

base::Result<int> run_plan(const Arguments& arguments) {
  const std::string mode_name = arguments.text("mode", "tiles");
  if (mode_name != "tiles" && mode_name != "split")
    return base::error(ErrorCode::kInvalidArgument, "-mode {}: tiles or split is expected", mode_name);
  TESSERA_ASSIGN(Subject subject, read_subject(arguments));
  if (mode_name == "split") return split_plan(arguments, subject);
  TESSERA_ASSIGN(const Cluster cluster, read_cluster(arguments, subject));
  const Mode mode = arguments.has("test") ? Mode::kTest : Mode::kTrain;
  TESSERA_ASSIGN(const Outcome outcome, make_outcome(cluster.planning, mode));
  if (arguments.has("json")) {
    fmt::print("{}\n", outcome_json(subject, cluster, outcome).dump());
  } else {
    print_outcome(subject, cluster, outcome, mode);
    if (mode == Mode::kTrain) print_recompute(subject, cluster, outcome);
    if (mode == Mode::kTrain && cluster.input().devices.size() > 1) print_boundary_first(subject, cluster, outcome);
    if (mode == Mode::kTrain)
      if (const auto fewer = cluster.planning.fewer(outcome.forecast.seconds(static_cast<int>(subject.subdivisions))))
        fmt::print("note: the fastest {} of these {} devices alone would be faster: {:.3f} s an iteration\n", fewer->devices,
                   cluster.input().devices.size(), fewer->seconds);
  }
  if (arguments.has("print") && !arguments.has("json"))
    for (std::size_t p = 0; p < cluster.input().profiles.size(); ++p)
      fmt::print("\n{}", program::program_text(subject.graph, outcome.programs, static_cast<int>(p), cluster.input().names));
  TESSERA_TRY(cluster.planning.check_memory(outcome.programs));
  return 0;
}

}  // namespace tessera::darknet
