// Worker processes on this machine, started and stopped with the session.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "cluster/cluster_file.hpp"
#include "transport/shared_memory.hpp"

namespace tessera::cluster {

// darknet-worker beside the running program's file: `darknet worker` without the libraries that a worker has no use for.
// "" when it is not there.
std::string worker_program();

class LocalWorkers {
 public:
  // Starts `count` processes `worker_program() worker -listen ipc://… -once`, or else `program worker …`, in a private
  // directory. They share memory with each other and with this process where the system has it.
  static base::Result<LocalWorkers> start(const std::string& program, int count, int threads);
  ~LocalWorkers();
  LocalWorkers(LocalWorkers&& other) noexcept;
  LocalWorkers& operator=(LocalWorkers&&) = delete;

  const std::vector<WorkerSpec>& specs() const { return specs_; }
  const std::vector<pid_t>& pids() const { return pids_; }
  // Where these processes and the coordinator put their sockets.
  const std::string& directory() const { return directory_; }
  // With the coordinator as participant 0, the workers after it; may be null.
  const std::shared_ptr<transport::SharedMemory>& shared_memory() const { return shared_memory_; }

 private:
  LocalWorkers() = default;

  std::string directory_;
  std::vector<WorkerSpec> specs_;
  std::vector<pid_t> pids_;
  std::shared_ptr<transport::SharedMemory> shared_memory_;
};

}  // namespace tessera::cluster
