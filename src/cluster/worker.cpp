#include "cluster/worker.hpp"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <filesystem>
#include <mutex>
#include <thread>

#include "cluster/process_usage.hpp"
#include "cluster/protocol.hpp"
#include "cluster/worker_session.hpp"
#include "transport/address.hpp"
#include "transport/zmq_control.hpp"

namespace tessera::cluster {

using base::Clock;
using base::Deadline;
using base::ErrorCode;
using base::Status;

namespace {

constexpr base::Milliseconds kTick{100};
constexpr base::Milliseconds kIdlePatience{60000};
constexpr base::Milliseconds kSendPatience{2000};

std::string host_name() {
  char name[256] = "";
  gethostname(name, sizeof name - 1);
  return name;
}

// A socket for IPv6 and IPv4 reports 127.0.0.1 as [::ffff:127.0.0.1], which is no address of this machine alone in a
// cluster file.
std::string as_people_write_it(const std::string& address) {
  constexpr std::string_view kMapped = "::ffff:";
  const auto parsed = transport::parse_address(address);
  if (!parsed || !parsed->host.starts_with(kMapped)) return address;
  return transport::with_host(address, parsed->host.substr(kMapped.size())).value_or(address);
}

// A coordinator that was killed leaves the directory behind that it made for its local workers' sockets, among them this
// one's. Only sockets are removed: a directory that holds anything else stays.
void remove_socket_directory(const std::string& listen) {
  constexpr std::string_view kScheme = "ipc://";
  if (!listen.starts_with(kScheme)) return;
  const auto directory = std::filesystem::path(listen.substr(kScheme.size())).parent_path();
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(directory, ignored))
    if (entry.is_socket(ignored)) std::filesystem::remove(entry.path(), ignored);
  std::filesystem::remove(directory, ignored);
}

// The thread that owns the control socket. Sessions compute in threads of their own and hand it their answers.
class Server {
 public:
  Server(const WorkerOptions& options, const std::atomic<bool>& stop, std::unique_ptr<transport::ControlServer> control,
         std::shared_ptr<transport::SharedMemory> shared_memory)
      : options_(options),
        stop_(stop),
        control_(std::move(control)),
        host_{control_->address(), options.threads, options.backend_cache, std::move(shared_memory)},
        name_(options.name.empty() ? host_name() : options.name) {}

  Status serve() {
    while (!stop_ && !finished_) {
      TESSERA_ASSIGN(auto incoming, control_->receive(Deadline::after(kTick)));
      if (incoming) take(std::move(*incoming));
      send_replies();
      beat();
      watch();
    }
    return {};
  }

 private:
  void take(transport::ControlIncoming incoming) {
    auto message = wire::parse_control(incoming.text);
    if (!message) return control_->drop(incoming.peer);  // a stranger; it loses its own connection and nothing else
    if (message->type == "hello") return greet(incoming.peer, incoming.peer_name, *message);
    if (incoming.peer != coordinator_) return;
    last_heard_ = Clock::now();
    if (message->type == "beat") return;
    if (message->type == "close") return end_session("closed");
    if (message->type == "open") return open(*message);
    if (session_) session_->post(std::move(*message), std::move(incoming.blobs));
  }

  void greet(transport::ControlPeer peer, const std::string& peer_name, const wire::ControlMessage& message) {
    const wire::Fields fields(message);
    const auto protocol = fields.integer("protocol");
    if (!protocol || *protocol != kProtocol)
      return refuse(peer, ErrorCode::kProtocol,
                    fmt::format("it speaks protocol {}, this coordinator {}; install the same version of darknet on both", kProtocol,
                                protocol ? fmt::to_string(*protocol) : "none"));
    if (coordinator_ != 0 && coordinator_ != peer)
      return refuse(peer, ErrorCode::kInvalidArgument, "it is busy with another session; wait for its end or stop it");
    coordinator_ = peer;
    control_->keep(peer);
    last_heard_ = Clock::now();
    spdlog::info("session with {}", peer_name);
    send(peer, wire::control_text("welcome", {{"name", name_},
                                              {"cores", std::max(1u, std::thread::hardware_concurrency())},
                                              {"memory_bytes", physical_memory_bytes()},
                                              {"protocol", kProtocol}}));
  }

  void refuse(transport::ControlPeer peer, ErrorCode code, const std::string& why) {
    const auto text = wire::control_text("refuse", {{"code", static_cast<int>(code)}, {"message", why}, {"peer", -1}});
    // Nobody waits for a stranger to take it.
    if (peer != coordinator_)
      static_cast<void>(control_->send(peer, text, {}, Deadline::after(base::Milliseconds(0))));
    else
      send(peer, text);
  }

  void open(const wire::ControlMessage& message) {
    session_.reset();
    auto session = WorkerSession::open(message, host_, [this](std::string text) {
      {
        std::lock_guard lock(mutex_);
        replies_.push_back(std::move(text));
      }
      control_->wake();
    });
    if (session) {
      session_ = std::move(*session);
    } else {
      send(coordinator_,
           wire::control_text("failed",
                              {{"code", static_cast<int>(session.error().code)}, {"message", session.error().message}, {"peer", -1}}));
    }
  }

  void send(transport::ControlPeer peer, std::string text) {
    if (auto sent = control_->send(peer, std::move(text), {}, Deadline::after(kSendPatience)); !sent && peer == coordinator_)
      end_session(sent.error().message);
  }

  void send_replies() {
    std::vector<std::string> replies;
    {
      std::lock_guard lock(mutex_);
      replies.swap(replies_);
    }
    for (auto& text : replies)
      if (coordinator_ != 0) send(coordinator_, std::move(text));
  }

  void beat() {
    if (coordinator_ == 0 || Clock::now() < next_beat_) return;
    next_beat_ = Clock::now() + kBeatInterval;
    nlohmann::json usage = {{"busy_seconds", 0.0}, {"waiting_seconds", 0.0}, {"sent_bytes", 0}, {"received_bytes", 0}};
    if (session_) usage = session_->usage();
    usage["memory_bytes"] = resident_bytes();
    usage["memory_peak_bytes"] = peak_resident_bytes();
    send(coordinator_, wire::control_text("beat", usage));
  }

  void watch() {
    if (coordinator_ != 0 && Clock::now() - last_heard_ > kCoordinatorSilence) end_session("the coordinator is silent");
    if (options_.once && coordinator_ == 0 && Clock::now() - idle_since_ > kIdlePatience) finished_ = true;
    if (options_.parent != 0 && getppid() != options_.parent) {
      finished_ = true;
      remove_socket_directory(control_->address());
    }
  }

  void end_session(const std::string& why) {
    if (coordinator_ == 0) return;
    spdlog::info("session over: {}", why);
    session_.reset();
    control_->drop(coordinator_);
    coordinator_ = 0;
    control_->keep(0);
    idle_since_ = Clock::now();
    std::lock_guard lock(mutex_);
    replies_.clear();
    finished_ = finished_ || options_.once;
  }

  const WorkerOptions& options_;
  const std::atomic<bool>& stop_;
  const std::unique_ptr<transport::ControlServer> control_;
  const SessionHost host_;
  const std::string name_;
  transport::ControlPeer coordinator_ = 0;
  std::unique_ptr<WorkerSession> session_;
  base::TimePoint last_heard_ = Clock::now(), idle_since_ = Clock::now(), next_beat_ = Clock::now();
  bool finished_ = false;

  std::mutex mutex_;
  std::vector<std::string> replies_;
};

}  // namespace

Status serve(const WorkerOptions& options, const std::atomic<bool>& stop, void (*announce)(const std::string&)) {
  TESSERA_ASSIGN(const auto address, transport::parse_address(options.listen));
  if (!transport::is_local_bind(address) && !options.insecure)
    return base::error(ErrorCode::kInvalidArgument,
                       "{} can be reached from other machines and nothing protects it; in a network you trust add -insecure",
                       options.listen);
  std::shared_ptr<transport::SharedMemory> shared_memory;
  if (options.shared_memory >= 0) {
    TESSERA_ASSIGN(shared_memory, transport::SharedMemory::open(options.shared_memory));
  }
  TESSERA_ASSIGN(auto control, transport::listen_control(options.listen));
  announce(as_people_write_it(control->address()));
  return Server(options, stop, std::move(control), std::move(shared_memory)).serve();
}

}  // namespace tessera::cluster
