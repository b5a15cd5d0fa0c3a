// `darknet plan -mode split`: where each device would be cut, its share of the server's link, and the round that comes of it.
#include "darknet/commands/plan_split.hpp"

#include <nlohmann/json.hpp>

#include "observe/gantt.hpp"
#include "plan/split_scheduler.hpp"

namespace tessera::darknet {
namespace {

using base::ErrorCode;

constexpr double kMegabit = 1e6 / 8, kMegabyte = 1e6, kGiga = 1e9;
constexpr double kOperationsPerMultiplyAdd = 2;
constexpr double kLabelBytes = 5 * 4;  // one box a picture
constexpr long kMostRounds = 1'000'000;

struct Subject {
  plan::SplitNetwork network;
  plan::SplitSetting setting;
  std::vector<plan::SplitDevice> devices;
  bool batches_given = false;
};

base::Result<Subject> read_subject(const Arguments& arguments, const graph::Graph& graph, const std::vector<cluster::WorkerSpec>& workers,
                                   const cluster::ServerSpec& server, const sim::DeviceProfile& profile) {
  if (workers.empty())
    return base::error(ErrorCode::kInvalidArgument, "-mode split: there is no device; give -workers N or a cluster file");
  Subject subject;
  subject.network = plan::split_network(graph);
  subject.setting.server_speed = server.gflops * kGiga;
  subject.setting.bandwidth = server.bandwidth_mbit * kMegabit;
  subject.setting.label_bytes = kLabelBytes;
  const long rounds = arguments.integer("sync_every", 1), least = arguments.integer("privacy_min_layers", 1);
  if (rounds < 1 || rounds > kMostRounds)
    return base::error(ErrorCode::kInvalidArgument, "-sync_every {}: 1 to {} rounds are expected", rounds, kMostRounds);
  if (least < 1 || least > static_cast<long>(subject.network.cuts.size()))
    return base::error(ErrorCode::kInvalidArgument, "-privacy_min_layers {}: 1 to {} layers can stay on a device", least,
                       subject.network.cuts.size());
  subject.setting.sync_every = static_cast<int>(rounds);
  subject.setting.least_depth = static_cast<int>(least);
  std::size_t given = 0;
  for (const cluster::WorkerSpec& worker : workers) {
    plan::SplitDevice device;
    device.name = worker.name;
    device.speed = worker.gflops > 0 ? worker.gflops * kGiga : profile.multiply_adds_per_second * kOperationsPerMultiplyAdd * worker.speed;
    device.link = worker.bandwidth_mbit > 0 ? worker.bandwidth_mbit * kMegabit : profile.link_bytes_per_second;
    device.memory = worker.memory_mb > 0 ? worker.memory_mb * 1024.0 * 1024 : profile.memory_bytes;
    device.batch = std::max(1, worker.batch);
    given += worker.batch > 0;
    subject.devices.push_back(device);
  }
  if (given > 0 && given < workers.size())
    return base::error(ErrorCode::kInvalidArgument, "{} of {} devices have a \"batch\" in the cluster file; give it to all or none", given,
                       workers.size());
  subject.batches_given = given > 0;
  return subject;
}

struct Row {
  plan::SplitDevice device;
  plan::SplitCut cut;
  int layer = 0;  // Darknet's number of the last layer on the device
  double share = 0;
  plan::SplitTimes times;
};

std::vector<Row> rows_of(const Subject& subject, const plan::SplitAssignment& assignment, const graph::Graph& graph) {
  int samples = 0;
  for (const plan::SplitDevice& device : subject.devices) samples += device.batch;
  std::vector<Row> rows;
  for (std::size_t i = 0; i < subject.devices.size(); ++i) {
    const plan::SplitDevice& device = subject.devices[i];
    const plan::SplitCut& cut = subject.network.cuts[static_cast<std::size_t>(assignment.cuts[i])];
    rows.push_back({device, cut, graph[graph.first_layer() + cut.depth - 1].source, assignment.shares[i],
                    plan::split_times(subject.network, subject.setting, device, samples, assignment.cuts[i], assignment.shares[i])});
  }
  return rows;
}

double memory_of(const Row& row) { return row.cut.memory_bytes + row.cut.sample_memory_bytes * row.device.batch; }

void print_rows(const std::vector<Row>& rows, double seconds) {
  fmt::print("{:<16} {:>9} {:>6} {:>11} {:>10} {:>13} {:>9} {:>9} {:>11} {:>9}\n", "device", "cut after", "batch", "share Mbit",
             "memory MB", "computation s", "upload s", "server s", "download s", "round s");
  for (const Row& row : rows)
    fmt::print("{:<16} {:>9} {:>6} {:>11.2f} {:>10.1f} {:>13.3f} {:>9.3f} {:>9.3f} {:>11.3f} {:>9.3f}\n", row.device.name, row.layer,
               row.device.batch, row.share / kMegabit, memory_of(row) / kMegabyte, row.times.computation, row.times.upload,
               row.times.server, row.times.download, row.times.total());
  fmt::print("predicted round: {:.3f} s (speeds as given or assumed, not measured)\n\n", seconds);
}

nlohmann::json to_json(const std::vector<Row>& rows, double seconds) {
  auto devices = nlohmann::json::array();
  for (const Row& row : rows)
    devices.push_back({{"name", row.device.name},
                       {"cut_after_layer", row.layer},
                       {"depth", row.cut.depth},
                       {"batch", row.device.batch},
                       {"share_bytes_per_second", row.share},
                       {"memory_bytes", memory_of(row)},
                       {"computation_seconds", row.times.computation},
                       {"upload_seconds", row.times.upload},
                       {"server_seconds", row.times.server},
                       {"download_seconds", row.times.download}});
  return {{"round_seconds", seconds}, {"devices", devices}};
}

// The device's forward pass is a third of its computation, its two backward passes the rest, after the gradients came back.
observe::Gantt gantt_of(const std::vector<Row>& rows, double seconds) {
  observe::Gantt gantt{fmt::format("split training, one round: {:.3g} s", seconds), {"computation", "upload", "server", "download"}, {}};
  for (const Row& row : rows) {
    double now = 0;
    observe::GanttRow line{row.device.name, {}};
    const auto add = [&](double length, int kind) {
      line.spans.push_back({now, now + length, kind});
      now += length;
    };
    add(row.times.computation / 3, 0);
    add(row.times.upload, 1);
    add(row.times.server, 2);
    add(row.times.download, 3);
    add(row.times.computation * 2 / 3, 0);
    gantt.rows.push_back(std::move(line));
  }
  return gantt;
}

}  // namespace

base::Result<int> run_split_plan(const Arguments& arguments, const graph::Graph& graph, long batch,
                                 const std::vector<cluster::WorkerSpec>& workers, const cluster::ServerSpec& server,
                                 const sim::DeviceProfile& profile) {
  TESSERA_ASSIGN(Subject subject, read_subject(arguments, graph, workers, server, profile));
  TESSERA_ASSIGN(const plan::SplitAssignment assignment,
                 subject.batches_given
                     ? plan::schedule_split(subject.network, subject.setting, subject.devices)
                     : plan::schedule_batches(subject.network, subject.setting, subject.devices, static_cast<int>(batch)));
  const std::vector<Row> rows = rows_of(subject, assignment, graph);
  const observe::Gantt gantt = gantt_of(rows, assignment.seconds);
  if (arguments.has("json")) {
    fmt::print("{}\n", to_json(rows, assignment.seconds).dump());
  } else {
    fmt::print("server: {:.0f} GFLOP/s and {:.0f} Mbit/s\n", server.gflops, server.bandwidth_mbit);
    print_rows(rows, assignment.seconds);
    fmt::print("{}", observe::gantt_text(gantt));
  }
  if (arguments.has("gantt")) TESSERA_TRY(observe::write_gantt(gantt, arguments.text("gantt")));
  return 0;
}

}  // namespace tessera::darknet
