#include "cluster/coordinator.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <random>

#include "cluster/own_address.hpp"
#include "cluster/process_usage.hpp"
#include "cluster/protocol.hpp"
#include "program/compile.hpp"
#include "sim/profiles.hpp"
#include "sim/simulator.hpp"
#include "sim/update.hpp"
#include "transport/address.hpp"
#include "transport/inproc.hpp"
#include "transport/zmq_control.hpp"
#include "transport/zmq_endpoint.hpp"
#include "wire/hash.hpp"

namespace tessera::cluster {

using base::Deadline;
using base::ErrorCode;
using base::Status;
using transport::Frame;

namespace {

constexpr base::Milliseconds kAbortPatience{5000};
constexpr base::Milliseconds kBlamePatience{3000};
constexpr base::Milliseconds kBlameStep{50};

std::uint64_t random_number() {
  std::random_device device;
  return (static_cast<std::uint64_t>(device()) << 32) | device();
}

const char* mode_name(program::Mode mode) { return mode == program::Mode::kTrain ? "train" : "test"; }

base::Result<std::string> coordinator_bind(const SessionOptions& options) {
  if (!options.socket_directory.empty()) return fmt::format("ipc://{}/data-0", options.socket_directory);
  bool local = true;
  for (const auto& worker : options.workers) local = local && transport::is_local_bind(worker.address);
  if (local) return std::string("tcp://127.0.0.1:*");
  if (!options.insecure)
    return base::error(
        ErrorCode::kInvalidArgument,
        "workers on other machines connect back to this one and nothing protects that; in a network you trust add -insecure");
  return own_address_towards(options.workers[0].address);
}

}  // namespace

base::Result<std::unique_ptr<Coordinator>> Coordinator::start(const graph::Graph& graph, const exec::Parameters& parameters,
                                                              SessionOptions options) {
  const std::uint64_t session = random_number();
  transport::ZmqOptions zmq;
  zmq.token = transport::make_session_token();
  std::unique_ptr<transport::Endpoint> endpoint;
  if (options.workers.empty()) {
    endpoint = std::move(transport::make_inproc_endpoints(1)[0]);  // nobody to talk to, nothing to listen at
  } else {
    TESSERA_ASSIGN(zmq.bind, coordinator_bind(options));
    zmq.shared_memory = options.shared_memory;
    TESSERA_ASSIGN(endpoint, transport::make_zmq_endpoint(zmq));
  }
  std::unique_ptr<Coordinator> self(new Coordinator(graph, parameters, std::move(options), std::move(endpoint), session));
  const std::uint64_t hash = self->options_.workers.empty() ? 0 : exec::parameters_hash(parameters);
  int number = 0;
  for (const auto& spec : self->options_.workers) {
    Worker worker;
    worker.spec = spec;
    worker.number = ++number;
    TESSERA_TRY(self->open_worker(worker, hash, zmq.token));
    self->workers_.push_back(std::move(worker));
  }
  TESSERA_TRY(self->connect_peers());
  return self;
}

Coordinator::Coordinator(const graph::Graph& graph, const exec::Parameters& parameters, SessionOptions options,
                         std::unique_ptr<transport::Endpoint> endpoint, std::uint64_t session)
    : parameters_(parameters),
      options_(std::move(options)),
      session_(session),
      endpoint_(std::move(endpoint)),
      mailbox_(*endpoint_, session, kPiecePatience),
      pool_(options_.threads),
      executor_(graph, parameters_, options_.backend, pool_, options_.inference),
      members_{0} {}

Coordinator::~Coordinator() {
  for (Worker& worker : workers_) worker.link->post(wire::control_text("close"));
  workers_.clear();  // joins the links' threads, which send what was posted
  endpoint_->close();
}

// --- opening ---------------------------------------------------------------------------------------------------------

Status Coordinator::open_worker(Worker& worker, std::uint64_t hash, const transport::SessionToken& token) {
  const auto& spec = worker.spec;
  const auto patience = options_.socket_directory.empty() ? kConnectPatience : kLocalStartPatience;
  auto client = transport::connect_control(spec.address, "coordinator", Deadline::after(patience));
  if (!client)
    return base::error(client.error().code, "worker {}: {}; is `darknet worker -listen {}` running there?", spec.name,
                       client.error().message, spec.address);
  worker.link = std::make_unique<WorkerLink>(spec.name, std::move(*client), [this] { mailbox_.abort(); });
  worker.link->post(wire::control_text("hello", {{"protocol", kProtocol}}));
  TESSERA_ASSIGN(const auto welcome, worker.link->await("welcome", Deadline::after(kConnectPatience)));
  const wire::Fields fields(welcome);
  if (const auto protocol = fields.integer("protocol"); !protocol || *protocol != kProtocol)
    return base::error(ErrorCode::kProtocol,
                       "worker {} speaks protocol {}, this coordinator {}; install the same version of darknet on both", spec.name,
                       protocol ? fmt::to_string(*protocol) : "none", kProtocol);
  TESSERA_ASSIGN(const auto cores, fields.integer("cores", 1, 1 << 16));
  TESSERA_ASSIGN(worker.memory_bytes, fields.unsigned_integer("memory_bytes"));
  worker.cores = static_cast<int>(cores);

  const std::string data_bind =
      options_.socket_directory.empty() ? "" : fmt::format("ipc://{}/data-{}", options_.socket_directory, worker.number);
  worker.link->post(
      wire::control_text("open", {{"session", wire::hash_to_text(session_)},
                                  {"token", transport::token_to_text(token)},
                                  {"number", worker.number},
                                  {"graph", graph::to_json(executor_.graph())},
                                  {"parameters_hash", wire::hash_to_text(hash)},
                                  {"backend", options_.workers_choose_backend ? "auto" : std::string(kernels::to_string(options_.backend))},
                                  {"threads", spec.threads},
                                  {"data_bind", data_bind}}));
  TESSERA_ASSIGN(const auto opened, worker.link->await("opened", Deadline::after(kAnswerPatience)));
  const wire::Fields answer(opened);
  TESSERA_ASSIGN(worker.data_address, answer.string("data_address"));
  TESSERA_ASSIGN(const bool has_parameters, answer.boolean("has_parameters"));
  TESSERA_ASSIGN(const auto control_address, transport::parse_address(spec.address));
  if (control_address.scheme == transport::Scheme::kTcp) {
    TESSERA_ASSIGN(worker.data_address, transport::with_host(worker.data_address, control_address.host));
  }
  members_.push_back(worker.number);
  return has_parameters ? Status{} : send_parameters({&worker});
}

Status Coordinator::send_parameters(const std::vector<Worker*>& to) {
  const std::size_t total = exec::parameter_bytes(parameters_);
  for (std::size_t offset = 0; offset < total; offset += kParameterPieceBytes) {
    const std::size_t size = std::min(kParameterPieceBytes, total - offset);
    for (Worker* worker : to) {
      std::vector<Frame> blobs;
      blobs.push_back(Frame::allocate(size));
      exec::write_parameters(parameters_, offset, blobs[0].bytes());
      worker->link->post(wire::control_text("parameters", {{"offset", offset}}), std::move(blobs));
    }
    // A few pieces on the way are enough; more would only fill memory.
    if (offset / kParameterPieceBytes < kParameterPiecesAhead) continue;
    for (Worker* worker : to) {
      const auto taken = worker->link->await("parameters_taken", Deadline::after(kAnswerPatience));
      if (!taken) return tl::unexpected(taken.error());
    }
  }
  const std::string hash = wire::hash_to_text(exec::parameters_hash(parameters_));
  for (Worker* worker : to) {
    TESSERA_ASSIGN(const auto loaded, worker->link->await("parameters_loaded", Deadline::after(kAnswerPatience)));
    if (loaded.body.value("hash", "") != hash)
      return base::error(ErrorCode::kProtocol, "worker {} received other weights than were sent", worker->spec.name);
    worker->link->forget_messages();  // the last pieces' receipts
  }
  return {};
}

Status Coordinator::send_momentum(bool cleared) {
  const auto participants = static_cast<int>(members_.size());
  for (int p = 1; p < participants; ++p) {
    Worker& worker = workers_[static_cast<std::size_t>(members_[static_cast<std::size_t>(p)] - 1)];
    const std::vector<float> momentum = exec::momentum_of(parameters_, *momentum_sharding_, p);
    const auto bytes = std::as_bytes(std::span(momentum));
    if (cleared && std::all_of(momentum.begin(), momentum.end(), [](float value) { return value == 0; })) continue;
    for (std::size_t offset = 0; offset < bytes.size(); offset += kParameterPieceBytes) {
      std::vector<Frame> blobs;
      blobs.push_back(Frame::copy_of(bytes.subspan(offset, std::min(kParameterPieceBytes, bytes.size() - offset))));
      worker.link->post(wire::control_text("momentum", {{"offset", offset}}), std::move(blobs));
      const auto taken = worker.link->await("momentum_taken", Deadline::after(kAnswerPatience));
      if (!taken) return tl::unexpected(taken.error());
    }
  }
  return {};
}

Status Coordinator::connect_peers() {
  TESSERA_ASSIGN(const std::string own, endpoint_->address());
  auto peers = nlohmann::json::array({nlohmann::json::array({0, own})});
  for (const Worker& worker : workers_) peers.push_back({worker.number, worker.data_address});
  for (Worker& worker : workers_) worker.link->post(wire::control_text("connect", {{"peers", peers}}));
  for (Worker& worker : workers_) TESSERA_TRY(endpoint_->connect(worker.number, worker.data_address, Deadline::after(kConnectPatience)));
  for (Worker& worker : workers_) {
    const auto connected = worker.link->await("connected", Deadline::after(kAnswerPatience));
    if (!connected) return tl::unexpected(connected.error());
  }
  return {};
}

Status Coordinator::share_parameters() {
  executor_.weights_changed();
  executor_.remember();
  TESSERA_TRY(send_parameters(members()));
  held_.reset();
  return momentum_members_ == members_ ? send_momentum(false) : Status{};
}

// --- plans -----------------------------------------------------------------------------------------------------------

Status Coordinator::select(const graph::Graph& graph, geometry::Index batch, program::Mode mode) {
  Key key{{}, batch, mode};
  for (int node = 0; node < graph.first_layer(); ++node) key.inputs.push_back(graph[node].out);
  auto found = std::find_if(selected_.begin(), selected_.end(), [&](const auto& entry) { return entry.first == key; });
  if (found != selected_.end() && found->second.key == current_) return {};
  if (found == selected_.end()) {
    if (!has_layout_) TESSERA_TRY(choose_layout(graph, batch));
    Selected selected;
    selected.key = ++next_key_;
    selected.graph = graph;
    TESSERA_ASSIGN(selected.plan, plan::make_plan(graph, batch, layout_));
    program::ProgramSet programs = program::compile(graph, selected.plan, mode);
    TESSERA_TRY(check_memory(graph, programs));
    selected.program = std::make_shared<const program::Program>(programs.programs[0]);
    TESSERA_TRY(distribute(selected, programs, mode));
    constexpr std::size_t kMostSelected = 8;  // as many as workers keep
    if (selected_.size() >= kMostSelected) selected_.erase(selected_.begin());
    selected_.push_back({key, std::move(selected)});
    found = selected_.end() - 1;
  }
  const Selected& selected = found->second;
  mailbox_.set_members(members_);
  TESSERA_TRY(executor_.load(selected.graph, selected.program, mode, 0, static_cast<int>(members_.size()), batch));
  plan_ = selected.plan;
  current_ = selected.key;
  sharding_ = selected.program->sharding;
  if (held_ && !held_->covers(*sharding_)) {
    TESSERA_TRY(send_parameters(members()));
    held_.reset();
  }
  if (mode == program::Mode::kTrain && (momentum_members_ != members_ || momentum_sharding_->chunks != sharding_->chunks)) {
    momentum_members_.clear();
    momentum_sharding_ = sharding_;
    TESSERA_TRY(send_momentum(true));
    momentum_members_ = members_;
  }
  return {};
}

Status Coordinator::choose_layout(const graph::Graph& graph, geometry::Index batch) {
  std::vector<plan::Device> devices;
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  const bool same_machine = !options_.socket_directory.empty();
  std::vector<sim::DeviceProfile> profiles(
      members_.size(), same_machine ? sim::same_machine_profile(cores, static_cast<int>(members_.size()) - 1) : sim::DeviceProfile{});
  for (std::size_t participant = 1; participant < members_.size(); ++participant) {
    const WorkerSpec& spec = workers_[static_cast<std::size_t>(members_[participant] - 1)].spec;
    devices.push_back({static_cast<int>(participant), spec.speed});
    profiles[participant].multiply_adds_per_second *= spec.speed;
  }
  if (devices.empty()) devices.push_back({0, 1.0});
  plan::LayoutRequest request = options_.layout;
  request.single_pass = options_.subdivisions == 1;
  const int cells = request.rows * request.columns * std::max(1, request.samples);
  // After a loss the grid that was asked for has too many tiles; whatever is best for those who remain takes its place.
  if (cells != static_cast<int>(devices.size()) && members_.size() < workers_.size() + 1)
    request.rows = request.columns = 0, request.samples = 1;
  for (std::size_t participant = 0; participant < profiles.size(); ++participant)
    profiles[participant].memory_bytes = memory_limit(participant);
  const auto members_cost = [&](const plan::Plan& plan, const std::vector<int>& members) {
    std::vector<sim::DeviceProfile> subset;
    for (int member : members) subset.push_back(profiles[static_cast<std::size_t>(member)]);
    const auto forecast = sim::simulate(graph, program::compile(graph, plan, program::Mode::kTrain), subset);
    return forecast.fits ? forecast.seconds(options_.subdivisions) : std::numeric_limits<double>::infinity();
  };
  std::vector<int> everybody(members_.size());
  std::iota(everybody.begin(), everybody.end(), 0);
  const auto cost = [&](const plan::Plan& plan) { return members_cost(plan, everybody); };
  auto layout = plan::choose_layout(graph, batch, request, devices, static_cast<int>(members_.size()), cost);
  if (!layout && layout.error().code == ErrorCode::kOutOfMemory) {  // any will do for check_memory() to say what is missing where
    for (auto& profile : profiles) profile.memory_bytes = 0;
    layout = plan::choose_layout(graph, batch, request, devices, static_cast<int>(members_.size()), cost);
  }
  if (!layout) return tl::unexpected(layout.error());
  layout_ = std::move(*layout);
  has_layout_ = true;
  if (devices.size() < 2) return {};
  TESSERA_ASSIGN(const plan::Plan chosen, plan::make_plan(graph, batch, layout_));
  if (const auto fewer = plan::faster_with_fewer(graph, batch, request, devices, cost(chosen), members_cost))
    options_.say(fmt::format("note: {} of the {} workers would be faster by estimate; the others cost more in messages than they bring",
                             fewer->devices, devices.size()));
  return {};
}

// Of tensors, weights, gradients and momentum, in bytes.
double Coordinator::memory_limit(std::size_t participant) const {
  const Worker* worker = participant == 0 ? nullptr : &workers_[static_cast<std::size_t>(members_[participant] - 1)];
  const int limit_mb = worker && worker->spec.memory_mb > 0 ? worker->spec.memory_mb : options_.memory_mb;
  return limit_mb > 0 ? limit_mb * 1048576.0 : static_cast<double>(worker ? worker->memory_bytes : physical_memory_bytes());
}

Status Coordinator::check_memory(const graph::Graph& graph, const program::ProgramSet& programs) const {
  std::string table;
  bool fits = true;
  for (std::size_t participant = 0; participant < members_.size(); ++participant) {
    const bool coordinator = participant == 0;
    const Worker* worker = coordinator ? nullptr : &workers_[static_cast<std::size_t>(members_[participant] - 1)];
    const double limit = memory_limit(participant);
    const std::size_t fixed = sim::parameter_bytes(graph, programs, static_cast<int>(participant));
    const auto needed = static_cast<double>(programs.programs[participant].arena_bytes + fixed);
    fits = fits && needed <= limit;
    table += fmt::format("{}{} needs {:.0f} of {:.0f} MB", table.empty() ? "" : ", ", worker ? worker->spec.name : "coordinator",
                         needed / 1048576, limit / 1048576);
  }
  if (fits) return {};
  return base::error(ErrorCode::kOutOfMemory, "the plan does not fit: {}; use more workers, more subdivisions or a smaller image", table);
}

Status Coordinator::distribute(const Selected& selected, const program::ProgramSet& programs, program::Mode mode) {
  post_to_members(wire::control_text("plan", {{"key", selected.key},
                                              {"members", members_},
                                              {"graph", graph::to_json(selected.graph)},
                                              {"plan", plan::to_json(selected.plan)},
                                              {"mode", mode_name(mode)},
                                              {"fingerprint", wire::hash_to_text(program::fingerprint(programs))}}));
  for (Worker* worker : members()) {
    const auto planned = worker->link->await("planned", Deadline::after(kAnswerPatience));
    if (!planned) return tl::unexpected(planned.error());
  }
  return {};
}

// --- passes ----------------------------------------------------------------------------------------------------------

// A number under which nothing is on its way.
std::uint64_t Coordinator::next_run() {
  ++run_;
  if (sent_ahead_ && run_ == sent_ahead_->run) {
    sent_ahead_.reset();
    ++run_;
  }
  return run_;
}

Status Coordinator::run(const std::string& pass) {
  const bool forward = pass == "forward";
  const bool inputs_are_sent = forward && sent_ahead_ && sent_ahead_->run == run_ + 1 && sent_ahead_->key == current_;
  if (inputs_are_sent) sent_ahead_.reset();
  post_to_members(wire::control_text("run", {{"key", current_}, {"pass", pass}, {"run", next_run()}}));
  mailbox_.start_run(run_);
  if (forward) return executor_.forward(mailbox_, inputs_are_sent);
  return executor_.backward(mailbox_, pass == "last_backward");
}

bool Coordinator::may_send_ahead() const {
  return members_.size() > 1 && std::all_of(plan_.owned.begin(), plan_.owned.end(), [](const auto& boxes) { return boxes[0].empty(); });
}

Status Coordinator::send_next_inputs(bool last) {
  const std::uint64_t ahead = last ? 3 : 2;  // past the backward pass, and the update
  static_assert(3 <= exec::Mailbox::kMostRunsAhead);
  TESSERA_TRY(executor_.send_inputs(mailbox_, ahead));
  sent_ahead_ = {run_ + ahead, current_};
  return {};
}

void Coordinator::ignore_sent_inputs() {
  if (sent_ahead_) sent_ahead_->key = -1;
}

Status Coordinator::settle() {
  for (Worker* worker : members()) {
    const auto summed = worker->link->await("summed", Deadline::after(kAnswerPatience));
    if (!summed) return tl::unexpected(summed.error());
  }
  return {};
}

void Coordinator::commit(const exec::OptimizerStep& step) {
  post_to_members(wire::control_text("commit", {{"run", next_run()},
                                                {"learning_rate", step.learning_rate},
                                                {"momentum", step.momentum},
                                                {"decay", step.decay},
                                                {"batch", step.batch}}));
  mailbox_.start_run(run_);
  executor_.update(step);
  held_ = sharding_->partial() ? sharding_ : nullptr;
  // Whom this does not reach reports a mixture of weights when it is asked, and gets them all (recover()).
  if (const auto shared = executor_.share_update(mailbox_); !shared) mailbox_.abort();
}

void Coordinator::post_to_members(const std::string& text) {
  for (Worker* worker : members()) worker->link->post(text);
}

std::vector<Coordinator::Worker*> Coordinator::members() {
  std::vector<Worker*> result;
  for (int number : members_)
    if (number != 0) result.push_back(&workers_[static_cast<std::size_t>(number - 1)]);
  return result;
}

// --- recovery --------------------------------------------------------------------------------------------------------

Status Coordinator::recover() {
  settle_blame();
  for (Worker* worker : members())
    if (!worker->link->lost()) {
      worker->link->forget_messages();
      worker->link->post(wire::control_text("abort"));
    }
  std::vector<Worker*> incomplete;
  for (Worker* worker : members()) {
    if (worker->link->lost()) continue;
    const auto aborted = worker->link->await_despite_failures("aborted", Deadline::after(kAbortPatience));
    if (!aborted)
      worker->link->declare_lost(aborted.error());
    else if (!aborted->body.value("complete", false))
      incomplete.push_back(worker);
  }
  drop_lost();
  executor_.restore();
  mailbox_.resume();
  selected_.clear();
  current_ = -1;
  has_layout_ = false;
  held_.reset();
  for (Worker* worker : incomplete)
    if (const auto sent = send_parameters({worker}); !sent) worker->link->declare_lost(sent.error());
  drop_lost();
  return {};
}

// Who reported a broken connection is believed only when the other side does not turn out lost by itself in the time
// in which silence is noticed.
void Coordinator::settle_blame() {
  std::vector<std::pair<int, base::Error>> blamed;  // endpoint number
  if (mailbox_.blamed() > 0) blamed.push_back({mailbox_.blamed(), {ErrorCode::kPeerLost, "its connection to the coordinator broke"}});
  for (Worker* worker : members())
    if (auto failure = worker->link->take_failure()) {
      const auto& [error, peer] = *failure;
      const bool blames_other =
          (error.code == ErrorCode::kPeerLost || error.code == ErrorCode::kTimeout) && peer >= 0 && peer != worker->number;
      blamed.push_back({blames_other ? peer : worker->number, error});
    }
  mailbox_.forgive();
  if (blamed.empty()) return;
  const auto any_lost = [this] {
    for (Worker* worker : members())
      if (worker->link->lost()) return true;
    return false;
  };
  const auto deadline = Deadline::after(kBlamePatience);
  const bool only_connections = std::all_of(blamed.begin(), blamed.end(), [](const auto& b) {
    return b.second.code == ErrorCode::kPeerLost || b.second.code == ErrorCode::kTimeout;
  });
  while (only_connections && !any_lost() && !deadline.passed()) std::this_thread::sleep_for(kBlameStep);
  if (only_connections && any_lost()) return;
  for (const auto& [number, error] : blamed)
    if (number > 0) workers_[static_cast<std::size_t>(number - 1)].link->declare_lost(error);
}

void Coordinator::drop_lost() {
  for (Worker& worker : workers_) {
    const auto lost = worker.link->lost();
    if (!lost || worker.expelled) continue;
    worker.expelled = true;
    endpoint_->expel(worker.number);
    std::erase(members_, worker.number);
    const int left = workers_left();
    const bool named = lost->message.find(worker.spec.name) != std::string::npos;
    options_.say(fmt::format("{}{}; going on with {}", named ? "" : fmt::format("worker {} is lost: ", worker.spec.name), lost->message,
                             left == 0   ? "the coordinator alone"
                             : left == 1 ? "1 worker"
                                         : fmt::format("{} workers", left)));
  }
}

std::vector<observe::DeviceReport> Coordinator::reports() {
  std::vector<observe::DeviceReport> now;
  observe::DeviceReport own;
  own.name = "coordinator";
  own.busy_seconds = executor_.usage().busy_seconds;
  own.waiting_seconds = mailbox_.usage().waiting_seconds;
  own.sent_bytes = mailbox_.usage().sent_bytes;
  own.received_bytes = mailbox_.usage().received_bytes;
  own.memory_bytes = resident_bytes();
  own.memory_peak_bytes = peak_resident_bytes();
  now.push_back(own);
  for (const Worker& worker : workers_) {
    const WorkerUsage u = worker.link->usage();
    now.push_back({worker.spec.name, u.busy_seconds, u.waiting_seconds, u.sent_bytes, u.received_bytes, u.memory_bytes, u.memory_peak_bytes,
                   !worker.expelled});
  }
  auto since = now;
  for (std::size_t i = 0; i < reported_.size() && i < since.size(); ++i) {
    since[i].busy_seconds -= reported_[i].busy_seconds;
    since[i].waiting_seconds -= reported_[i].waiting_seconds;
    since[i].sent_bytes -= reported_[i].sent_bytes;
    since[i].received_bytes -= reported_[i].received_bytes;
  }
  reported_ = std::move(now);
  return since;
}

}  // namespace tessera::cluster
