#include "cluster/worker_session.hpp"

#include <spdlog/spdlog.h>

#include <cstring>

#include "base/heap.hpp"
#include "cluster/process_usage.hpp"
#include "cluster/protocol.hpp"
#include "kernels/convolution_select.hpp"
#include "plan/plan.hpp"
#include "program/compile.hpp"
#include "transport/zmq_endpoint.hpp"
#include "wire/hash.hpp"

namespace tessera::cluster {

using base::Deadline;
using base::ErrorCode;
using base::Status;
using wire::Fields;

namespace {

constexpr std::size_t kMostPlans = 8;  // train and test, for a few sizes

base::Result<std::vector<int>> int_array(const Fields& fields, const std::string& name, int limit) {
  TESSERA_ASSIGN(const nlohmann::json* array, fields.array(name, 1024));
  std::vector<int> values;
  for (const auto& item : *array) {
    if (!item.is_number_integer() || item.get<std::int64_t>() < 0 || item.get<std::int64_t>() > limit)
      return base::error(ErrorCode::kProtocol, "field '{}' holds something else than small numbers", name);
    values.push_back(item.get<int>());
  }
  return values;
}

std::string failed_text(const base::Error& error, int peer) {
  return wire::control_text("failed", {{"code", static_cast<int>(error.code)}, {"message", error.message}, {"peer", peer}});
}

}  // namespace

base::Result<std::unique_ptr<WorkerSession>> WorkerSession::open(const wire::ControlMessage& message, const SessionHost& host,
                                                                 Reply reply) {
  const Fields fields(message);
  TESSERA_ASSIGN(const std::uint64_t session, fields.hash("session"));
  TESSERA_ASSIGN(const std::string token_text, fields.string("token"));
  TESSERA_ASSIGN(const auto token, transport::token_from_text(token_text));
  TESSERA_ASSIGN(const auto number, fields.integer("number", 1, 1023));
  TESSERA_ASSIGN(const nlohmann::json* graph_json, fields.object("graph"));
  TESSERA_ASSIGN(const graph::Graph graph, graph::graph_from_json(*graph_json));
  TESSERA_ASSIGN(const std::string backend_name, fields.string("backend"));
  std::optional<kernels::Backend> backend;
  if (backend_name != "auto") {
    TESSERA_ASSIGN(backend, kernels::backend_from_string(backend_name));
  }
  TESSERA_ASSIGN(const auto wanted_threads, fields.integer("threads", 0, 1024));
  TESSERA_ASSIGN(const std::string data_bind, fields.string("data_bind"));

  transport::ZmqOptions options;
  options.self = static_cast<int>(number);
  options.token = token;
  options.shared_memory = host.shared_memory;
  if (!data_bind.empty()) {
    options.bind = data_bind;
  } else {
    // Beside the worker's own address, on any free port.
    options.bind = host.listen.starts_with("tcp://") ? host.listen.substr(0, host.listen.rfind(':')) + ":*"
                                                     : fmt::format("{}-data-{}", host.listen, number);
  }
  TESSERA_ASSIGN(auto endpoint, transport::make_zmq_endpoint(options));
  TESSERA_ASSIGN(const std::string address, endpoint->address());

  const int thread_count = host.threads > 0     ? host.threads
                           : wanted_threads > 0 ? static_cast<int>(wanted_threads)
                                                : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  std::unique_ptr<WorkerSession> result(new WorkerSession(graph, session, static_cast<int>(number), std::move(endpoint), backend,
                                                          host.backend_cache, thread_count, std::move(reply)));
  result->reply_(wire::control_text("opened", {{"data_address", address}}));
  result->thread_ = std::thread([session_ptr = result.get()] { session_ptr->work(); });
  return result;
}

WorkerSession::WorkerSession(graph::Graph graph, std::uint64_t session, int number, std::unique_ptr<transport::Endpoint> endpoint,
                             std::optional<kernels::Backend> backend, std::string backend_cache, int threads, Reply reply)
    : graph_(std::move(graph)),
      session_(session),
      number_(number),
      reply_(std::move(reply)),
      endpoint_(std::move(endpoint)),
      mailbox_(*endpoint_, session, kPiecePatience),
      pool_(threads),
      executor_(graph_, std::nullopt, backend.value_or(kernels::Backend::kReference), pool_),
      chooses_backend_(!backend),
      backend_cache_(std::move(backend_cache)) {
  publish_usage();
}

WorkerSession::~WorkerSession() { stop(); }

void WorkerSession::stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  mailbox_.abort();
  posted_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void WorkerSession::post(wire::ControlMessage message, std::vector<transport::Frame> blobs) {
  // First the flag, then the command that ends it. Commands before it stay: a commit among them still counts.
  if (message.type == "abort") mailbox_.abort();
  {
    std::lock_guard lock(mutex_);
    commands_.push_back({std::move(message), std::move(blobs)});
  }
  posted_.notify_all();
}

nlohmann::json WorkerSession::usage() const {
  std::lock_guard lock(mutex_);
  return usage_;
}

void WorkerSession::publish_usage() {
  nlohmann::json usage = {{"busy_seconds", executor_.usage().busy_seconds},
                          {"waiting_seconds", mailbox_.usage().waiting_seconds},
                          {"sent_bytes", mailbox_.usage().sent_bytes},
                          {"received_bytes", mailbox_.usage().received_bytes},
                          {"memory_bytes", resident_bytes()},
                          {"memory_peak_bytes", peak_resident_bytes()}};
  std::lock_guard lock(mutex_);
  usage_ = std::move(usage);
}

// In the session's thread: a slow device takes seconds for it, and beats must go on.
void WorkerSession::choose_backend() {
  const auto choice = kernels::choose_backend(exec::convolution_shapes(graph_), true, pool_, backend_cache_);
  spdlog::info("backend: {}", kernels::to_string(choice.backend));
  executor_.set_backend(choice.backend);
}

void WorkerSession::work() {
  if (chooses_backend_) choose_backend();
  while (true) {
    Command command;
    {
      std::unique_lock lock(mutex_);
      posted_.wait(lock, [this] { return stopping_ || !commands_.empty(); });
      if (stopping_) return;
      command = std::move(commands_.front());
      commands_.pop_front();
    }
    if (command.message.type == "abort") {
      recover();
      continue;
    }
    if (failed_) continue;
    const auto status = execute(command);
    publish_usage();
    if (status) continue;
    failed_ = true;
    if (status.error().code != ErrorCode::kAborted) reply_(failed_text(status.error(), mailbox_.blamed()));
  }
}

// Back to the state after the last commit.
void WorkerSession::recover() {
  executor_.abandon();
  mailbox_.hold({});
  mailbox_.resume();
  failed_ = false;
  plans_.clear();
  current_ = -1;
  reply_(wire::control_text("aborted"));
}

Status WorkerSession::execute(const Command& command) {
  const auto& type = command.message.type;
  const Fields fields(command.message);
  if (type == "run") return run(fields);
  if (type == "commit") return commit(fields);
  if (type == "plan") return plan(command.message);
  if (type == "connect") return connect(fields);
  return base::error(ErrorCode::kProtocol, "unknown message '{}'", type);
}

Status WorkerSession::connect(const Fields& fields) {
  TESSERA_ASSIGN(const nlohmann::json* peers, fields.array("peers", 1024));
  for (const auto& peer : *peers) {
    if (!peer.is_array() || peer.size() != 2 || !peer[0].is_number_integer() || !peer[1].is_string())
      return base::error(ErrorCode::kProtocol, "field 'peers' is not a list of numbers and addresses");
    const int number = peer[0].get<int>();
    if (number != number_) TESSERA_TRY(endpoint_->connect(number, peer[1].get<std::string>(), Deadline::after(kConnectPatience)));
  }
  reply_(wire::control_text("connected"));
  return {};
}

Status WorkerSession::plan(const wire::ControlMessage& message) {
  const Fields fields(message);
  Loaded loaded;
  TESSERA_ASSIGN(const auto key, fields.integer("key", 0, 1 << 30));
  TESSERA_ASSIGN(const nlohmann::json* graph_json, fields.object("graph"));
  TESSERA_ASSIGN(loaded.graph, graph::graph_from_json(*graph_json));
  if (loaded.graph.size() != graph_.size()) return base::error(ErrorCode::kProtocol, "a plan for another graph");
  for (int node = 0; node < graph_.size(); ++node)
    if (loaded.graph[node].kind != graph_[node].kind || loaded.graph[node].out.c != graph_[node].out.c ||
        loaded.graph[node].kernel != graph_[node].kernel || loaded.graph[node].batch_normalize != graph_[node].batch_normalize)
      return base::error(ErrorCode::kProtocol, "a plan for another graph: node {} differs", node);
  TESSERA_ASSIGN(const nlohmann::json* plan_json, fields.object("plan"));
  TESSERA_ASSIGN(const plan::Plan plan, plan::plan_from_json(*plan_json, loaded.graph));
  TESSERA_ASSIGN(loaded.members, int_array(fields, "members", 1023));
  const auto self = std::find(loaded.members.begin(), loaded.members.end(), number_);
  if (self == loaded.members.end() || static_cast<int>(loaded.members.size()) != plan.participants)
    return base::error(ErrorCode::kProtocol, "a plan for other participants");
  TESSERA_ASSIGN(const std::string mode, fields.string("mode"));
  TESSERA_ASSIGN(const std::uint64_t fingerprint, fields.hash("fingerprint"));
  loaded.batch = plan.batch;
  const auto number = static_cast<int>(self - loaded.members.begin());
  const auto compiled_for = mode == "train" ? program::Mode::kTrain : program::Mode::kTest;
  TESSERA_TRY(program::check_makers(loaded.graph, plan, compiled_for));
  loaded.program = std::make_shared<const program::Program>(program::compile(loaded.graph, plan, compiled_for, number));
  if (program::fingerprint(*loaded.program) != fingerprint)
    return base::error(ErrorCode::kProtocol,
                       "its program differs from the coordinator's; install the same version of darknet on all devices");
  if (plans_.size() >= kMostPlans) plans_.erase(plans_.begin());
  const auto bytes = loaded.program->arena_bytes;
  plans_[static_cast<int>(key)] = std::move(loaded);
  current_ = -1;
  TESSERA_TRY(make_current(static_cast<int>(key)));
  base::trim_heap();  // of what compiling took
  reply_(wire::control_text("planned", {{"key", key}, {"arena_bytes", bytes}}));
  return {};
}

Status WorkerSession::make_current(int key) {
  if (current_ == key) return {};
  const auto found = plans_.find(key);
  if (found == plans_.end()) return base::error(ErrorCode::kProtocol, "no plan {}", key);
  const Loaded& loaded = found->second;
  mailbox_.set_members(loaded.members);
  TESSERA_TRY(executor_.load(loaded.graph, loaded.program, loaded.batch, mailbox_));
  current_ = key;
  return {};
}

Status WorkerSession::run(const Fields& fields) {
  TESSERA_ASSIGN(const auto key, fields.integer("key", 0, 1 << 30));
  TESSERA_ASSIGN(const auto run, fields.unsigned_integer("run"));
  TESSERA_ASSIGN(const std::string pass, fields.string("pass"));
  TESSERA_TRY(make_current(static_cast<int>(key)));
  mailbox_.start_run(run);
  if (pass == "forward") return executor_.forward(mailbox_);
  if (pass == "backward") return executor_.backward(mailbox_, false);
  if (pass == "gather") return executor_.gather(mailbox_, [](int, program::Slot, const geometry::Box&, std::span<const float>) {});
  if (pass == "scatter") return executor_.scatter(mailbox_, false);
  if (pass == "scatter_momentum") return executor_.scatter(mailbox_, true);
  if (pass != "last_backward") return base::error(ErrorCode::kProtocol, "unknown pass '{}'", pass);
  TESSERA_TRY(executor_.backward(mailbox_, true));
  reply_(wire::control_text("summed", {{"run", run}, {"not_finite", executor_.not_finite().value_or(-1)}}));
  return {};
}

Status WorkerSession::commit(const Fields& fields) {
  if (current_ < 0) return base::error(ErrorCode::kProtocol, "a commit without a plan");
  exec::OptimizerStep step;
  TESSERA_ASSIGN(const double learning_rate, fields.number("learning_rate"));
  TESSERA_ASSIGN(const double momentum, fields.number("momentum"));
  TESSERA_ASSIGN(const double decay, fields.number("decay"));
  TESSERA_ASSIGN(const auto batch, fields.integer("batch", 1, 1 << 30));
  TESSERA_ASSIGN(const auto run, fields.unsigned_integer("run"));
  step = {static_cast<float>(learning_rate), static_cast<float>(momentum), static_cast<float>(decay), static_cast<int>(batch)};
  mailbox_.start_run(run);
  return executor_.update(step, mailbox_);
}

}  // namespace tessera::cluster
