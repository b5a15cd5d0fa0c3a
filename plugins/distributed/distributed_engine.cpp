#include "plugins/distributed/distributed_engine.hpp"

#include <cstdio>
#include <optional>
#include <thread>

#include "cluster/local_workers.hpp"
#include "kernels/convolution_select.hpp"
#include "plugins/distributed/range_session.hpp"
#include "plugins/distributed/settings.hpp"
#include "plugins/distributed/unwrapped_state.hpp"

namespace tessera::distributed {

using base::Result;
using base::Status;
using cluster::SessionOptions;

namespace {

void say(const std::string& line) {
  fmt::print(stderr, "{}\n", line);
  std::fflush(stderr);
}

using Sessions = std::vector<std::unique_ptr<RangeSession>>;

void join_rows(std::span<float* const> rows, std::size_t columns, float* out) {
  for (const float* row : rows) out = std::copy_n(row, columns, out);
}

// Trains a network of which ranges are wrapped. Only the first session may have workers.
class RangesEngine : public darknet::Engine {
 public:
  RangesEngine(Sessions sessions, std::unique_ptr<cluster::LocalWorkers> local)
      : local_(std::move(local)), sessions_(std::move(sessions)) {}

  Result<float> train_batch(network* net, const data::Batch& batch, const NextBatch& next) override {
    if (!collected_) keep(*net);
    // Each loss of a worker costs one attempt, a connection in trouble maybe one more.
    for (int attempts = 3 * (workers() + 1);; --attempts) {
      try {
        TESSERA_TRY(repeat_lost(net));
        const float loss = run_batch(net, batch, next);
        const bool due = !again_ || since_collected_ + 1 >= first().coordinator().iterations_between_collections();
        if (!due)
          ++since_collected_;
        else if (auto done = collect(net); !done)
          throw PassFailed(std::move(done).error());
        return loss;
      } catch (PassFailed& failed) {
        if (workers() == 0 || !recoverable(failed.error) || attempts == 0) return tl::unexpected(failed.error);
        TESSERA_TRY(go_back(net));
      }
    }
  }

  Status collect(network* net) override {
    if (workers() == 0) return {};
    TESSERA_TRY(first().collect());
    keep(*net);
    return {};
  }

  void set_again(const MakeAgain& again) override { again_ = again; }

  std::vector<observe::DeviceReport> device_reports() override {
    auto reports = first().coordinator().reports();
    for (std::size_t i = 1; i < sessions_.size(); ++i) reports[0].busy_seconds += sessions_[i]->coordinator().reports()[0].busy_seconds;
    return reports;
  }

  Status detach(network* net) override {
    const Status collected = collect(net);
    sessions_.clear();
    local_.reset();
    return collected;
  }

 private:
  RangeSession& first() { return *sessions_.front(); }
  int workers() { return first().coordinator().workers_left(); }

  // The state that is gone back to when a worker is lost: without workers nothing can be lost.
  void keep(const network& net) {
    if (workers() > 0) collected_.emplace(net, first().range());
    since_collected_ = 0;
  }

  Status go_back(network* net) {
    collected_->restore(net);
    for (auto& session : sessions_) TESSERA_TRY(session->recover());
    lost_ += since_collected_;
    since_collected_ = 0;
    if (lost_ > 0) say(fmt::format("repeating {} iteration{} since parameters were collected", lost_, lost_ == 1 ? "" : "s"));
    return {};
  }

  // The iterations between what was collected and the one that could not be finished, with the same samples.
  Status repeat_lost(network* net) {
    for (; lost_ > 0; --lost_) {
      TESSERA_ASSIGN(const data::Batch batch, again_(static_cast<std::uint64_t>(get_current_batch(net))));
      run_batch(net, batch, nullptr);
      ++since_collected_;
    }
    return {};
  }

  // As Darknet's train_network(), with the point in between at which nothing can fail any more.
  float run_batch(network* net, const data::Batch& batch, const NextBatch& next) {
    float sum = 0;
    const int passes = batch.shape.rows / net->batch;
    for (int i = 0; i < passes; ++i) {
      const auto rows = static_cast<std::size_t>(net->batch), row = static_cast<std::size_t>(i) * rows;
      join_rows(batch.inputs.subspan(row, rows), batch.shape.input_columns(), net->input);
      join_rows(batch.truths.subspan(row, rows), static_cast<std::size_t>(batch.shape.truth_columns), net->truth);
      first().begin_pass(batch.inputs[row]);
      *net->seen += static_cast<std::size_t>(net->batch);
      net->train = 1;
      forward_network(net);
      backward_network(net);
      send_ahead(batch, (i + 1) * net->batch, next);
      sum += *net->cost;
      if ((*net->seen / static_cast<std::size_t>(net->batch)) % static_cast<std::size_t>(net->subdivisions) == 0) {
        for (auto& session : sessions_)
          if (auto settled = session->settle(); !settled) throw PassFailed(std::move(settled).error());
        update_network(net);
      }
    }
    return sum / static_cast<float>(passes * net->batch);
  }

  // The pictures of the next pass travel while this one is back-propagated.
  void send_ahead(const data::Batch& batch, int row, const NextBatch& next) {
    if (!first().may_send_ahead()) return;
    if (row < batch.shape.rows) return first().send_ahead(batch, row);
    if (const auto upcoming = next ? next() : std::nullopt) first().send_ahead(*upcoming, 0);
  }

  std::unique_ptr<cluster::LocalWorkers> local_;
  Sessions sessions_;  // at least one
  MakeAgain again_;
  std::optional<UnwrappedState> collected_;  // what does not run on workers, as it was then
  int since_collected_ = 0;                  // iterations
  int lost_ = 0;                             // of these, those that have to be repeated
};

class RangesInference : public darknet::Inference {
 public:
  explicit RangesInference(Sessions sessions) : sessions_(std::move(sessions)) {}

 private:
  Sessions sessions_;
};

int cores() { return std::max(1, static_cast<int>(std::thread::hardware_concurrency())); }

int own_threads(const Settings& settings) { return settings.threads > 0 ? settings.threads : cores(); }

// A range to be wrapped.
struct Part {
  LayerRange range;
  graph::Graph graph;
};

// The backend of this process and of workers beside it, and how it was found.
struct Chosen {
  kernels::Backend backend;
  std::string text;
};

Chosen choose_backend(const Settings& settings, const std::vector<const Part*>& parts, Purpose purpose, int threads,
                      const std::string& cache) {
  if (settings.backend) return {*settings.backend, std::string(kernels::to_string(*settings.backend))};
  std::vector<kernels::ConvolutionShape> layers;
  for (const Part* part : parts)
    for (const auto& shape : exec::convolution_shapes(part->graph)) layers.push_back(shape);
  base::ThreadPool pool(threads);
  using Origin = kernels::BackendChoice::Origin;
  const auto choice = kernels::choose_backend(layers, purpose == Purpose::kTraining, pool, cache);
  return {choice.backend, fmt::format("{}{}", kernels::to_string(choice.backend),
                                      choice.origin == Origin::kMeasured     ? ", the fastest as measured now"
                                      : choice.origin == Origin::kRemembered ? ", the fastest as measured earlier"
                                                                             : "")};
}

// The layers of the section. Errors name its line.
Result<Part> section_part(const network& net, const cfg::DistributedSection& section, const Settings& settings) {
  auto range = wrappable_range(net, section.first_layer);
  if (!range) return base::error(range.error().code, "{}:{}: {}", section.file, section.line, range.error().message);
  if (settings.layers > 0) range->end = range->begin + settings.layers;
  auto graph = network_graph(net, *range);
  if (!graph) return base::error(graph.error().code, "{}:{}: {}", section.file, section.line, graph.error().message);
  return Part{*range, std::move(*graph)};
}

std::vector<Part> equivalent_parts(const network& net, LayerRange taken) {
  std::vector<Part> parts;
  for (const LayerRange range : equivalent_ranges(net, taken)) parts.push_back({range, *network_graph(net, range)});
  return parts;
}

std::string layers_text(LayerRange range) {
  return range.end - range.begin == 1 ? fmt::to_string(range.begin) : fmt::format("{} to {}", range.begin, range.end - 1);
}

// Starts a session in this process for each part and adds it to `sessions`. A part for which that fails stays on
// upstream's code, which is said.
void start_here(network* net, const std::vector<Part>& parts, Purpose purpose, const Settings& settings, kernels::Backend backend,
                Sessions& sessions) {
  for (const Part& part : parts) {
    SessionOptions options;
    options.backend = backend;
    options.threads = own_threads(settings);
    options.memory_mb = settings.memory_mb;
    options.subdivisions = net->subdivisions;
    options.say = say;
    auto session = RangeSession::start(net, part.range, part.graph, purpose, std::move(options));
    const Status started = session ? (*session)->prepare() : tl::unexpected(session.error());
    if (started)
      sessions.push_back(std::move(*session));
    else
      say(fmt::format("note: layers {} stay on upstream's code: {}", layers_text(part.range), started.error().message));
  }
}

// What runs where, for networks and rests of networks in this process.
void announce_here(const network& net, const Sessions& sessions, std::size_t first, const std::string& backend, int threads) {
  std::vector<bool> ours(static_cast<std::size_t>(net.n));
  std::string layers, others, reason;
  for (std::size_t i = 0; i < sessions.size(); ++i) {
    const LayerRange range = sessions[i]->range();
    std::fill(ours.begin() + range.begin, ours.begin() + range.end, true);
    if (i >= first) layers += (layers.empty() ? "" : ", ") + layers_text(range);
  }
  for (int begin = 0; begin < net.n; ++begin) {
    int end = begin;
    while (end < net.n && !ours[static_cast<std::size_t>(end)]) ++end;
    if (end == begin) continue;
    if (reason.empty()) reason = reason_against(net, begin);
    others += (others.empty() ? "" : ", ") + layers_text({begin, end});
    begin = end;
  }
  if (layers.empty() && first > 0) return;
  if (layers.empty()) {
    say(fmt::format("no layer can run on our kernels, all run on upstream's code{}",
                    reason.empty() ? "" : fmt::format(" (layer 0: {})", reason)));
    return;
  }
  say(fmt::format("our kernels ({}; {} thread{}) run layers {}{}; -backend stock runs everything on upstream's", backend, threads,
                  threads == 1 ? "" : "s", layers, others.empty() ? "" : fmt::format("; upstream's code runs {}", others)));
}

std::string layer_list(const std::vector<int>& nodes, const graph::Graph& graph) {
  std::string text;
  for (int node : nodes) text += fmt::format("{}{}", text.empty() ? "" : ",", graph[node].source);
  return text;
}

void announce_section(RangeSession& session, const cluster::LocalWorkers* local, std::size_t workers, const std::string& backend) {
  const auto& plan = session.coordinator().plan();
  say(fmt::format("distributed: layers {} to {} on {}; forward groups start at {}; backward groups end at {}; backend {}",
                  session.range().begin, session.range().end - 1,
                  workers == 0 ? "this machine alone" : fmt::format("{} worker{}", workers, workers == 1 ? "" : "s"),
                  layer_list(plan.forward_starts, session.graph()), layer_list(plan.backward_ends, session.graph()), backend));
  std::string filters;  // layers of which each worker has filters of its own
  for (int node = session.graph().first_layer(); node < session.graph().size() && workers > 0; ++node)
    if (plan::cut_along_channels(plan, session.graph(), node))
      filters += fmt::format("{}{}", filters.empty() ? "" : ",", session.graph()[node].source);
  if (!filters.empty()) say(fmt::format("distributed: layers {} cut along channels, each worker with filters of its own", filters));
  if (plan.wire == plan::WireType::kFloat16 && workers > 0)
    say("distributed: wire=fp16: activations and deltas travel in half precision, results are approximate");
  if (plan.boundary_first && workers > 1)
    say("distributed: what neighbours wait for is computed first and travels meanwhile (boundary_first)");
  if (plan.recompute) say("distributed: tensors inside forward groups are computed again in back-propagation (recompute)");
  if (local)
    for (std::size_t i = 0; i < local->pids().size(); ++i)
      say(fmt::format("distributed: worker {} is process {}", local->specs()[i].name, local->pids()[i]));
}

Result<Settings> settings_of(const cfg::DistributedSection& section, const darknet::EngineOptions& options) {
  TESSERA_ASSIGN(Settings settings, read_settings(section));
  if (!options.backend.empty()) TESSERA_TRY(set_backend(settings, options.backend, "-backend " + options.backend));
  return settings;
}

// Workers started or named by the section.
Status find_workers(const Settings& settings, const std::string& program, SessionOptions& session,
                    std::unique_ptr<cluster::LocalWorkers>& local) {
  if (settings.local_workers > 0) {
    const int threads = settings.threads > 0 ? settings.threads : std::max(1, cores() / settings.local_workers);
    TESSERA_ASSIGN(auto started, cluster::LocalWorkers::start(program, settings.local_workers, threads));
    local = std::make_unique<cluster::LocalWorkers>(std::move(started));
    session.workers = local->specs();
    session.socket_directory = local->directory();
    session.shared_memory = local->shared_memory();
  } else if (!settings.cluster_file.empty()) {
    TESSERA_ASSIGN(session.workers, cluster::read_cluster_file(settings.cluster_file));
    for (auto& worker : session.workers)
      if (worker.threads == 0) worker.threads = settings.threads;
  }
  return {};
}

Result<std::unique_ptr<darknet::Engine>> attach_section(network* net, const cfg::DistributedSection& section,
                                                        const darknet::EngineOptions& options, const Settings& settings) {
  if (net->adam && (settings.local_workers > 0 || !settings.cluster_file.empty()))
    return base::error(base::ErrorCode::kInvalidArgument,
                       "{}:{}: adam=1 works on one device only so far; remove workers=, or adam=1 from [net] and train with momentum",
                       section.file, section.line);
  TESSERA_ASSIGN(const Part part, section_part(*net, section, settings));
  const std::vector<Part> rest = equivalent_parts(*net, part.range);
  for (const auto& note : network_notes(*net, part.range)) say("note: " + note);

  SessionOptions session;
  TESSERA_ASSIGN(session.layout, layout_request(settings, part.graph));
  session.memory_mb = settings.memory_mb;
  session.subdivisions = net->subdivisions;
  session.insecure = options.insecure;
  session.say = say;
  session.threads = own_threads(settings);
  // Workers on this machine are told the backend; others choose for themselves.
  std::vector<const Part*> measured{&part};
  for (const Part& other : rest) measured.push_back(&other);
  const int threads =
      settings.local_workers > 0 && settings.threads == 0 ? std::max(1, cores() / settings.local_workers) : own_threads(settings);
  const Chosen chosen = choose_backend(settings, measured, Purpose::kTraining, threads, options.backend_cache);
  session.backend = chosen.backend;
  session.workers_choose_backend = !settings.backend && !settings.cluster_file.empty();
  const std::string backend = session.workers_choose_backend ? "as each measures" : chosen.text;
  std::unique_ptr<cluster::LocalWorkers> local;
  TESSERA_TRY(find_workers(settings, options.program, session, local));
  const std::size_t workers = session.workers.size();

  Sessions sessions;
  TESSERA_ASSIGN(auto distributed, RangeSession::start(net, part.range, part.graph, Purpose::kTraining, std::move(session)));
  sessions.push_back(std::move(distributed));
  if (auto prepared = sessions[0]->prepare(); !prepared)
    return base::error(prepared.error().code, "{}:{}: {}", section.file, section.line, prepared.error().message);
  announce_section(*sessions[0], local.get(), workers, backend);
  start_here(net, rest, Purpose::kTraining, settings, chosen.backend, sessions);
  announce_here(*net, sessions, 1, chosen.text, own_threads(settings));
  return std::make_unique<RangesEngine>(std::move(sessions), std::move(local));
}

// Everything in this process.
Sessions attach_here(network* net, const std::vector<Part>& parts, Purpose purpose, const Settings& settings,
                     const darknet::EngineOptions& options) {
  std::vector<const Part*> measured;
  for (const Part& part : parts) measured.push_back(&part);
  const Chosen chosen = choose_backend(settings, measured, purpose, own_threads(settings), options.backend_cache);
  Sessions sessions;
  start_here(net, parts, purpose, settings, chosen.backend, sessions);
  announce_here(*net, sessions, 0, chosen.text, own_threads(settings));
  return sessions;
}

}  // namespace

Result<std::unique_ptr<darknet::Engine>> attach_engine(network* net, const cfg::DistributedSection& section,
                                                       const darknet::EngineOptions& options) {
  TESSERA_ASSIGN(const Settings settings, settings_of(section, options));
  if (section.present) return attach_section(net, section, options, settings);
  Sessions sessions = attach_here(net, equivalent_parts(*net, {}), Purpose::kTraining, settings, options);
  if (sessions.empty()) return nullptr;
  return std::make_unique<RangesEngine>(std::move(sessions), nullptr);
}

Result<std::unique_ptr<darknet::Inference>> attach_inference(network* net, const cfg::DistributedSection& section,
                                                             const darknet::EngineOptions& options) {
  cfg::DistributedSection here = section;
  for (const char* key : {"workers", "grid", "forward_groups", "backward_groups", "wire"}) here.settings.erase(key);
  TESSERA_ASSIGN(const Settings settings, settings_of(here, options));
  std::vector<Part> parts;
  if (section.present)  // as training computes them
    if (auto part = section_part(*net, here, settings)) parts.push_back(std::move(*part));
  const LayerRange taken = parts.empty() ? LayerRange{} : parts[0].range;
  for (Part& part : equivalent_parts(*net, taken)) parts.push_back(std::move(part));
  Sessions sessions = attach_here(net, parts, Purpose::kInference, settings, options);
  if (sessions.empty()) return nullptr;
  return std::make_unique<RangesInference>(std::move(sessions));
}

}  // namespace tessera::distributed
