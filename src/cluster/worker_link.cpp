#include "cluster/worker_link.hpp"

#include "base/text.hpp"
#include "cluster/protocol.hpp"

namespace tessera::cluster {

using base::Clock;
using base::Deadline;
using base::Error;
using base::ErrorCode;

namespace {

constexpr base::Milliseconds kSendPatience{2000};
constexpr std::size_t kMostText = 500;      // of a worker's own words
constexpr std::size_t kMostAnswers = 4096;  // that wait to be asked for

base::Result<WorkerUsage> read_usage(const wire::ControlMessage& message) {
  const wire::Fields fields(message);
  WorkerUsage usage;
  TESSERA_ASSIGN(usage.busy_seconds, fields.number("busy_seconds"));
  TESSERA_ASSIGN(usage.waiting_seconds, fields.number("waiting_seconds"));
  TESSERA_ASSIGN(usage.sent_bytes, fields.unsigned_integer("sent_bytes"));
  TESSERA_ASSIGN(usage.received_bytes, fields.unsigned_integer("received_bytes"));
  TESSERA_ASSIGN(usage.memory_bytes, fields.unsigned_integer("memory_bytes"));
  TESSERA_ASSIGN(usage.memory_peak_bytes, fields.unsigned_integer("memory_peak_bytes"));
  return usage;
}

}  // namespace

WorkerLink::WorkerLink(std::string name, std::unique_ptr<transport::ControlClient> client, std::function<void()> on_trouble)
    : name_(std::move(name)), client_(std::move(client)), on_trouble_(std::move(on_trouble)), thread_([this] { work(); }) {}

WorkerLink::~WorkerLink() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  client_->wake();
  thread_.join();
}

void WorkerLink::post(std::string text, std::vector<transport::Frame> blobs) {
  {
    std::lock_guard lock(mutex_);
    if (lost_) return;
    outgoing_.push_back({std::move(text), std::move(blobs)});
  }
  client_->wake();
}

base::Result<wire::ControlMessage> WorkerLink::await(const std::string& type, Deadline deadline) { return await(type, deadline, true); }

base::Result<wire::ControlMessage> WorkerLink::await_despite_failures(const std::string& type, Deadline deadline) {
  return await(type, deadline, false);
}

base::Result<wire::ControlMessage> WorkerLink::await(const std::string& type, Deadline deadline, bool failures_count) {
  std::unique_lock lock(mutex_);
  while (true) {
    for (auto message = inbox_.begin(); message != inbox_.end(); ++message)
      if (message->type == type) {
        wire::ControlMessage found = std::move(*message);
        inbox_.erase(message);
        if (!failures_count) failure_.reset();
        return found;
      }
    if (!failures_count) failure_.reset();
    if (failure_) {
      const Error error = failure_->first;
      failure_.reset();
      return tl::unexpected(error);
    }
    if (lost_) return tl::unexpected(*lost_);
    if (arrived_.wait_until(lock, deadline.when()) == std::cv_status::timeout && deadline.passed())
      return base::error(ErrorCode::kTimeout, "worker {} did not answer with '{}' in time", name_, type);
  }
}

std::optional<Error> WorkerLink::lost() const {
  std::lock_guard lock(mutex_);
  return lost_;
}

void WorkerLink::declare_lost(Error why) {
  std::lock_guard lock(mutex_);
  if (!lost_) lost_ = std::move(why);
  arrived_.notify_all();
}

std::optional<std::pair<Error, int>> WorkerLink::take_failure() {
  std::lock_guard lock(mutex_);
  auto failure = std::move(failure_);
  failure_.reset();
  return failure;
}

void WorkerLink::forget_messages() {
  std::lock_guard lock(mutex_);
  inbox_.clear();
  failure_.reset();
}

WorkerUsage WorkerLink::usage() const {
  std::lock_guard lock(mutex_);
  return usage_;
}

void WorkerLink::work() {
  auto next_beat = Clock::now();
  while (true) {
    {
      std::lock_guard lock(mutex_);
      if (lost_ || (stopping_ && outgoing_.empty())) return;
    }
    if (Clock::now() >= next_beat) {
      post(wire::control_text("beat"));
      next_beat = Clock::now() + kBeatInterval;
    }
    send_queued();
    auto incoming = client_->receive(Deadline(std::min(next_beat, Clock::now() + kBeatInterval)));
    if (!incoming) {
      lose({ErrorCode::kPeerLost, fmt::format("worker {} closed the connection", name_)});
    } else if (*incoming) {
      last_heard_ = Clock::now();
      take(**incoming);
    } else if (Clock::now() - last_heard_ > kWorkerSilence) {
      lose({ErrorCode::kPeerLost,
            fmt::format("worker {} has been silent for {:.1f} s", name_, base::seconds_between(last_heard_, Clock::now()))});
    }
  }
}

void WorkerLink::send_queued() {
  while (true) {
    Outgoing next;
    {
      std::lock_guard lock(mutex_);
      if (outgoing_.empty()) return;
      next = std::move(outgoing_.front());
      outgoing_.pop_front();
    }
    if (auto sent = client_->send(std::move(next.text), std::move(next.blobs), Deadline::after(kSendPatience)); !sent) {
      lose({ErrorCode::kPeerLost, fmt::format("worker {} takes no messages: {}", name_, sent.error().message)});
      return;
    }
  }
}

void WorkerLink::take(const transport::ControlIncoming& incoming) {
  auto message = wire::parse_control(incoming.text);
  if (!message) return lose({ErrorCode::kProtocol, fmt::format("worker {} sent nonsense: {}", name_, message.error().message)});
  std::unique_lock lock(mutex_);
  if (message->type == "beat") {
    if (auto usage = read_usage(*message)) usage_ = *usage;
    return;
  }
  const bool failed = message->type == "failed" || message->type == "refuse";
  if (failed) {
    const wire::Fields fields(*message);
    const auto text = fields.string("message");
    const auto code = fields.integer("code", 0, static_cast<int>(ErrorCode::kNotFinite));
    const auto peer = fields.integer("peer", -1, 1 << 16);
    failure_ = {Error{code ? static_cast<ErrorCode>(*code) : ErrorCode::kProtocol,
                      fmt::format("worker {}: {}", name_, text ? base::quoted(*text, kMostText) : std::string("failed"))},
                peer ? static_cast<int>(*peer) : -1};
  } else {
    if (inbox_.size() >= kMostAnswers) {
      lock.unlock();
      return lose({ErrorCode::kProtocol, fmt::format("worker {} sends answers that nobody asked for", name_)});
    }
    inbox_.push_back(std::move(*message));
  }
  arrived_.notify_all();
  lock.unlock();
  if (failed) on_trouble_();
}

void WorkerLink::lose(Error why) {
  declare_lost(std::move(why));
  on_trouble_();
}

}  // namespace tessera::cluster
