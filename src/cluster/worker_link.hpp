// The coordinator's connection to one worker: a thread that beats, listens and notices silence.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "base/clock.hpp"
#include "base/result.hpp"
#include "transport/control.hpp"
#include "wire/control.hpp"

namespace tessera::cluster {

// What a worker says of itself in its beats; totals since its session began.
struct WorkerUsage {
  double busy_seconds = 0;
  double waiting_seconds = 0;
  std::uint64_t sent_bytes = 0;
  std::uint64_t received_bytes = 0;
  std::uint64_t memory_bytes = 0;
  std::uint64_t memory_peak_bytes = 0;
};

class WorkerLink {
 public:
  // `on_trouble` is called once, from the link's thread, when the worker is lost or reports a failure.
  WorkerLink(std::string name, std::unique_ptr<transport::ControlClient> client, std::function<void()> on_trouble);
  ~WorkerLink();

  const std::string& name() const { return name_; }

  // Queues a message; never waits.
  void post(std::string text, std::vector<transport::Frame> blobs = {});

  // The next message of one of the given types. Errors: kPeerLost with the reason, kTimeout, and the worker's own error
  // when it reports `failed` or `refuse` instead.
  base::Result<wire::ControlMessage> await(const std::string& type, base::Deadline deadline);
  // The same, while failures of work that is being abandoned may still come in: those are dropped.
  base::Result<wire::ControlMessage> await_despite_failures(const std::string& type, base::Deadline deadline);

  // Why the worker cannot be used any more; nothing while it can.
  std::optional<base::Error> lost() const;
  void declare_lost(base::Error why);

  // The failure it reported last, once, and the peer it blamed (-1: none).
  std::optional<std::pair<base::Error, int>> take_failure();
  // Throws away what came and was not asked for.
  void forget_messages();

  WorkerUsage usage() const;

 private:
  struct Outgoing {
    std::string text;
    std::vector<transport::Frame> blobs;
  };

  base::Result<wire::ControlMessage> await(const std::string& type, base::Deadline deadline, bool failures_count);
  void work();
  void send_queued();
  void take(const transport::ControlIncoming& incoming);
  void lose(base::Error why);

  const std::string name_;
  const std::unique_ptr<transport::ControlClient> client_;
  const std::function<void()> on_trouble_;

  mutable std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<Outgoing> outgoing_;
  std::deque<wire::ControlMessage> inbox_;
  std::optional<base::Error> lost_;
  std::optional<std::pair<base::Error, int>> failure_;
  WorkerUsage usage_;
  bool stopping_ = false;
  base::TimePoint last_heard_ = base::Clock::now();
  std::thread thread_;
};

}  // namespace tessera::cluster
