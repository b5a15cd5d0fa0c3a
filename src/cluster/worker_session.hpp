// One training session on a worker: what the coordinator sent, and a thread that executes its commands in order.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "exec/executor.hpp"
#include "transport/endpoint.hpp"
#include "transport/shared_memory.hpp"
#include "wire/control.hpp"

namespace tessera::cluster {

// What a session gets from the process that serves it.
struct SessionHost {
  std::string listen;                                      // the worker's own address, which the data address follows
  int threads = 0;                                         // 0: as the coordinator asks
  std::string backend_cache;                               // where measured choices of a backend are kept
  std::shared_ptr<transport::SharedMemory> shared_memory;  // with the session's other participants; may be null
};

class WorkerSession {
 public:
  using Reply = std::function<void(std::string text)>;  // callable from any thread

  // From an `open` message.
  static base::Result<std::unique_ptr<WorkerSession>> open(const wire::ControlMessage& message, const SessionHost& host, Reply reply);
  ~WorkerSession();

  std::uint64_t number() const { return session_; }

  // Takes any message of the session but `open`. `abort` acts at once, everything else in order.
  void post(wire::ControlMessage message, std::vector<transport::Frame> blobs);

  // The fields of a beat.
  nlohmann::json usage() const;

 private:
  struct Command {
    wire::ControlMessage message;
    std::vector<transport::Frame> blobs;
  };
  struct Loaded {
    graph::Graph graph;
    std::shared_ptr<const program::Program> program;
    geometry::Index batch = 0;
    std::vector<int> members;
  };

  WorkerSession(graph::Graph graph, std::uint64_t session, int number, std::unique_ptr<transport::Endpoint> endpoint,
                std::optional<kernels::Backend> backend, std::string backend_cache, int threads, Reply reply);

  void choose_backend();
  void work();
  base::Status execute(const Command& command);
  base::Status connect(const wire::Fields& fields);
  base::Status plan(const wire::ControlMessage& message);
  base::Status run(const wire::Fields& fields);
  base::Status commit(const wire::Fields& fields);
  base::Status make_current(int key);
  void recover();
  void stop();
  void publish_usage();

  const graph::Graph graph_;
  const std::uint64_t session_;
  const int number_;  // of its endpoint
  const Reply reply_;
  std::unique_ptr<transport::Endpoint> endpoint_;
  exec::Mailbox mailbox_;
  base::ThreadPool pool_;
  exec::Executor executor_;
  const bool chooses_backend_;  // by measuring; else it was told
  const std::string backend_cache_;
  std::map<int, Loaded> plans_;
  int current_ = -1;
  bool failed_ = false;  // since then commands are skipped until `abort`

  mutable std::mutex mutex_;
  std::condition_variable posted_;
  std::deque<Command> commands_;
  nlohmann::json usage_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace tessera::cluster
