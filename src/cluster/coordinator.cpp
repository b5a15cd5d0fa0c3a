#include "cluster/coordinator.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "base/check.hpp"
#include "cluster/own_address.hpp"
#include "cluster/process_usage.hpp"
#include "cluster/protocol.hpp"
#include "program/compile.hpp"
#include "sim/profiles.hpp"
#include "sim/simulator.hpp"
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
constexpr base::Milliseconds kAnswerStep{50};

// How often devices are assumed to fail, and how fast parameters travel before one collection has shown it.
constexpr double kSecondsBetweenFailures = 3600, kLocalBytesPerSecond = 1e9, kLinkBytesPerSecond = 11.75e6;
constexpr int kMostBetweenCollections = 100;

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
  int number = 0;
  for (const auto& spec : self->options_.workers) {
    Worker worker;
    worker.spec = spec;
    worker.number = ++number;
    TESSERA_TRY(self->open_worker(worker, zmq.token));
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
      members_{0} {
  if (!options_.workers.empty()) snapshot_.emplace(executor_.graph(), parameters_);
}

Coordinator::~Coordinator() {
  for (Worker& worker : workers_) worker.link->post(wire::control_text("close"));
  workers_.clear();  // joins the links' threads, which send what was posted
  endpoint_->close();
}

// --- opening ---------------------------------------------------------------------------------------------------------

Status Coordinator::open_worker(Worker& worker, const transport::SessionToken& token) {
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
                                  {"backend", options_.workers_choose_backend ? "auto" : std::string(kernels::to_string(options_.backend))},
                                  {"threads", spec.threads},
                                  {"data_bind", data_bind}}));
  TESSERA_ASSIGN(const auto opened, worker.link->await("opened", Deadline::after(kAnswerPatience)));
  const wire::Fields answer(opened);
  TESSERA_ASSIGN(worker.data_address, answer.string("data_address"));
  TESSERA_ASSIGN(const auto control_address, transport::parse_address(spec.address));
  if (control_address.scheme == transport::Scheme::kTcp) {
    TESSERA_ASSIGN(worker.data_address, transport::with_host(worker.data_address, control_address.host));
  }
  members_.push_back(worker.number);
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

void Coordinator::parameters_changed() {
  executor_.weights_changed();
  held_.clear();
  trained_ = false;
}

// --- plans -----------------------------------------------------------------------------------------------------------

Status Coordinator::select(const graph::Graph& graph, geometry::Index batch, program::Mode mode) {
  Key key{{}, batch, mode};
  for (int node = 0; node < graph.first_layer(); ++node) key.inputs.push_back(graph[node].out);
  auto found = std::find_if(selected_.begin(), selected_.end(), [&](const auto& entry) { return entry.first == key; });
  if (found != selected_.end() && found->second.key == current_ && holds(found->second.held)) return {};
  if (found == selected_.end()) {
    const Planning planning(planning_input(graph, batch));
    if (!has_layout_) TESSERA_TRY(choose_layout(planning));
    Selected selected;
    selected.key = ++next_key_;
    selected.graph = graph;
    selected.mode = mode;
    selected.batch = batch;
    TESSERA_ASSIGN(selected.plan, plan::make_plan(graph, batch, layout_));
    program::ProgramSet programs = program::compile(graph, selected.plan, mode);
    TESSERA_TRY(planning.check_memory(programs));
    selected.program = std::make_shared<const program::Program>(programs.programs[0]);
    for (const auto& program : programs.programs) selected.held.push_back({program.stored_filters, program.home_filters});
    if (!holds(selected.held)) TESSERA_TRY(collect());
    TESSERA_TRY(distribute(selected, programs));
    constexpr std::size_t kMostSelected = 8;  // as many as workers keep
    if (selected_.size() >= kMostSelected) selected_.erase(selected_.begin());
    selected_.push_back({key, std::move(selected)});
    found = selected_.end() - 1;
  }
  const Selected& selected = found->second;
  const bool held = holds(selected.held);
  if (!held) TESSERA_TRY(collect());
  TESSERA_TRY(make_current(selected));
  return held ? Status{} : scatter(selected);
}

Status Coordinator::make_current(const Selected& selected) {
  mailbox_.set_members(members_);
  TESSERA_TRY(executor_.load(selected.graph, selected.program, selected.batch, mailbox_));
  plan_ = selected.plan;
  current_ = selected.key;
  return {};
}

// Everybody has the parameters that the programs need of him.
bool Coordinator::holds(const std::vector<Held>& needed) const {
  if (members_.size() < 2) return true;
  if (held_.size() != needed.size()) return false;
  for (std::size_t p = 0; p < needed.size(); ++p)
    for (std::size_t node = 0; node < needed[p].filters.size(); ++node) {
      if (!held_[p].filters[node].contains(needed[p].filters[node])) return false;
      if (!needed[p].home[node].empty() && !(held_[p].home[node] == needed[p].home[node])) return false;
    }
  return true;
}

Status Coordinator::scatter(const Selected& selected) {
  held_.clear();
  const auto is_zero = [](std::span<const float> array) { return std::all_of(array.begin(), array.end(), [](float v) { return v == 0; }); };
  const bool momentum =
      selected.mode == program::Mode::kTrain && !std::all_of(parameters_.layers.begin(), parameters_.layers.end(), [&](const auto& l) {
        return is_zero(l.bias_updates) && is_zero(l.scale_updates) && is_zero(l.weight_updates);
      });
  begin("scatter");
  TESSERA_TRY(executor_.scatter(mailbox_, false));
  if (momentum) {
    begin("scatter_momentum");
    TESSERA_TRY(executor_.scatter(mailbox_, true));
  }
  held_ = selected.held;
  return {};
}

PlanningInput Coordinator::planning_input(const graph::Graph& graph, geometry::Index batch) const {
  PlanningInput input{graph, batch, options_.subdivisions, options_.layout, {}, {}, {}};
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  const bool same_machine = !options_.socket_directory.empty();
  const sim::DeviceProfile base =
      same_machine ? sim::same_machine_profile(cores, static_cast<int>(members_.size()) - 1) : sim::DeviceProfile{};
  for (std::size_t participant = 0; participant < members_.size(); ++participant) {
    const WorkerSpec spec =
        participant == 0 ? WorkerSpec{"coordinator", "", 1.0, 0, 0} : workers_[static_cast<std::size_t>(members_[participant] - 1)].spec;
    input.names.push_back(spec.name);
    input.profiles.push_back(device_profile(base, spec));
    input.profiles.back().memory_bytes = memory_limit(participant);
    if (participant > 0) input.devices.push_back({static_cast<int>(participant), spec.speed});
  }
  if (input.devices.empty()) input.devices.push_back({0, 1.0});
  plan::LayoutRequest& request = input.request;
  const int cells = request.rows * request.columns * std::max(1, request.samples);
  // After a loss the grid that was asked for has too many tiles; whatever is best for those who remain takes its place.
  if (cells != static_cast<int>(input.devices.size()) && members_.size() < workers_.size() + 1)
    request.rows = request.columns = 0, request.samples = 1;
  return input;
}

Status Coordinator::choose_layout(const Planning& planning) {
  TESSERA_ASSIGN(layout_, planning.choose());
  has_layout_ = true;
  const auto& input = planning.input();
  if (input.devices.size() < 2) return {};
  TESSERA_ASSIGN(const plan::Plan chosen, plan::make_plan(input.graph, input.batch, layout_));
  if (const auto fewer = planning.fewer(planning.cost(chosen)))
    options_.say(fmt::format("note: {} of the {} workers would be faster by estimate; the others cost more in messages than they bring",
                             fewer->devices, input.devices.size()));
  return {};
}

// Of tensors and parameters, in bytes.
double Coordinator::memory_limit(std::size_t participant) const {
  const Worker* worker = participant == 0 ? nullptr : &workers_[static_cast<std::size_t>(members_[participant] - 1)];
  const int limit_mb = worker && worker->spec.memory_mb > 0 ? worker->spec.memory_mb : options_.memory_mb;
  return limit_mb > 0 ? limit_mb * 1048576.0 : static_cast<double>(worker ? worker->memory_bytes : physical_memory_bytes());
}

Status Coordinator::distribute(const Selected& selected, const program::ProgramSet& programs) {
  const auto graph = graph::to_json(selected.graph), plan = plan::to_json(selected.plan);
  const auto all = members();
  for (std::size_t i = 0; i < all.size(); ++i)
    all[i]->link->post(wire::control_text("plan", {{"key", selected.key},
                                                   {"members", members_},
                                                   {"graph", graph},
                                                   {"plan", plan},
                                                   {"mode", mode_name(selected.mode)},
                                                   {"fingerprint", wire::hash_to_text(program::fingerprint(programs.programs[i + 1]))}}));
  for (Worker* worker : all) {
    if (const auto planned = await_answer(*worker, "planned"); !planned) return tl::unexpected(planned.error());
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

// A worker that waits for one that is lost answers late or never: the trouble of any ends the wait for this one.
base::Result<wire::ControlMessage> Coordinator::await_answer(Worker& worker, const std::string& type) {
  const auto deadline = Deadline::after(kAnswerPatience);
  while (true) {
    auto answer = worker.link->await(type, Deadline::after(kAnswerStep));
    if (answer || answer.error().code != ErrorCode::kTimeout || deadline.passed()) return answer;
    if (mailbox_.aborted()) return base::error(ErrorCode::kAborted, "abandoned");
  }
}

void Coordinator::begin(const std::string& phase) {
  post_to_members(wire::control_text("run", {{"key", current_}, {"pass", phase}, {"run", next_run()}}));
  mailbox_.start_run(run_);
}

Status Coordinator::run(const std::string& pass) {
  const bool forward = pass == "forward";
  const bool inputs_are_sent = forward && sent_ahead_ && sent_ahead_->run == run_ + 1 && sent_ahead_->key == current_;
  if (inputs_are_sent) sent_ahead_.reset();
  begin(pass);
  if (forward) return executor_.forward(mailbox_, inputs_are_sent);
  return executor_.backward(mailbox_, pass == "last_backward");
}

bool Coordinator::may_send_ahead() const {
  return members_.size() > 1 && std::all_of(plan_.owned.begin(), plan_.owned.end(),
                                            [&](const auto& boxes) { return boxes[static_cast<std::size_t>(plan_.host)].empty(); });
}

Status Coordinator::send_next_inputs(bool last) {
  const std::uint64_t ahead = last ? 2 : 1;  // past the update
  static_assert(2 <= exec::Mailbox::kMostRunsAhead);
  TESSERA_TRY(executor_.send_inputs(mailbox_, ahead));
  sent_ahead_ = {run_ + ahead, current_};
  return {};
}

void Coordinator::ignore_sent_inputs() {
  if (sent_ahead_) sent_ahead_->key = -1;
}

Status Coordinator::settle() {
  const auto complaint = [&](const std::string& who, int node) {
    const auto& layer = executor_.graph()[node];
    return base::error(ErrorCode::kNotFinite,
                       "the first value that is no number is in layer {}: the gradient of this {} layer, summed by {}", layer.source,
                       graph::to_string(layer.kind), who);
  };
  if (const auto node = executor_.not_finite()) return complaint("the coordinator", *node);
  for (Worker* worker : members()) {
    TESSERA_ASSIGN(const auto summed, await_answer(*worker, "summed"));
    const wire::Fields fields(summed);
    TESSERA_ASSIGN(const auto node, fields.integer("not_finite", -1, executor_.graph().size() - 1));
    if (node >= 0) return complaint("worker " + worker->spec.name, static_cast<int>(node));
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
  trained_ = true, trained_key_ = current_;
  const auto now = base::Clock::now();
  if (committed_ != base::TimePoint{}) iteration_seconds_ = base::seconds_between(committed_, now);
  committed_ = now;
  // Whom this does not reach fails in the next pass.
  if (const auto updated = executor_.update(step, mailbox_); !updated) mailbox_.abort();
}

Status Coordinator::collect() {
  if (members_.size() < 2 || !trained_) return {};
  const auto start = base::Clock::now();
  if (current_ != trained_key_) {  // homes are those of the plan that was trained with
    const auto trained =
        std::find_if(selected_.begin(), selected_.end(), [this](const auto& entry) { return entry.second.key == trained_key_; });
    TESSERA_CHECK(trained != selected_.end(), "the plan that was trained with is forgotten");
    TESSERA_TRY(make_current(trained->second));
  }
  TESSERA_TRY(snapshot_->begin());
  begin("gather");
  TESSERA_TRY(executor_.gather(mailbox_, [this](int node, program::Slot slot, const geometry::Box& box, std::span<const float> values) {
    snapshot_->add(node, slot, box, values);
  }));
  TESSERA_TRY(snapshot_->finish());
  executor_.weights_changed();
  trained_ = false;
  collection_seconds_ = base::seconds_between(start, base::Clock::now());
  return {};
}

// J. W. Young, 1974: sqrt(2 · cost of a snapshot · time between failures).
int Coordinator::iterations_between_collections() const {
  const bool same_machine = !options_.socket_directory.empty();
  const double assumed =
      static_cast<double>(snapshot_ ? snapshot_->bytes() : 0) / (same_machine ? kLocalBytesPerSecond : kLinkBytesPerSecond);
  const double cost = collection_seconds_ > 0 ? collection_seconds_ : assumed;
  const double seconds = std::sqrt(2 * cost * kSecondsBetweenFailures);
  return iteration_seconds_ > 0 ? std::clamp(static_cast<int>(seconds / iteration_seconds_), 1, kMostBetweenCollections)
                                : kMostBetweenCollections;
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
  for (Worker* worker : members()) {
    if (worker->link->lost()) continue;
    const auto aborted = worker->link->await_despite_failures("aborted", Deadline::after(kAbortPatience));
    if (!aborted) worker->link->declare_lost(aborted.error());
  }
  drop_lost();
  executor_.abandon();
  mailbox_.hold({});
  mailbox_.resume();
  selected_.clear();
  current_ = -1;
  has_layout_ = false;
  held_.clear();
  trained_ = false;
  sent_ahead_.reset();
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
      const bool blames_other = (error.code == ErrorCode::kPeerLost || error.code == ErrorCode::kTimeout) && peer >= 0 &&
                                peer <= static_cast<int>(workers_.size()) && peer != worker->number;
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
