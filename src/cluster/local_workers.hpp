// Worker processes on this machine, started and stopped with the session.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/result.hpp"
#include "cluster/cluster_file.hpp"

namespace tessera::cluster {

// darknet-worker beside the running program's file: `darknet worker` without the libraries that a worker has no use for.
// "" when it is not there.
std::string worker_program();

class LocalWorkers {
 public:
  // Starts `count` processes `worker_program() worker -listen ipc://… -once`, or else `program worker …`, in a private
  // directory.
  static base::Result<LocalWorkers> start(const std::string& program, int count, int threads);
  ~LocalWorkers();
  LocalWorkers(LocalWorkers&& other) noexcept;
  LocalWorkers& operator=(LocalWorkers&&) = delete;

  const std::vector<WorkerSpec>& specs() const { return specs_; }
  const std::vector<pid_t>& pids() const { return pids_; }
  // Where these processes and the coordinator put their sockets.
  const std::string& directory() const { return directory_; }

 private:
  LocalWorkers() = default;

  std::string directory_;
  std::vector<WorkerSpec> specs_;
  std::vector<pid_t> pids_;
};

}  // namespace tessera::cluster
