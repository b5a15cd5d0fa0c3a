// A worker: serves one training session after another. Needs no dataset, cfg or weights; everything arrives from the
// coordinator (protocol.hpp).
#pragma once

#include <atomic>
#include <string>

#include "base/result.hpp"

namespace tessera::cluster {

struct WorkerOptions {
  std::string listen = "tcp://127.0.0.1:5555";
  std::string name;           // how it calls itself; empty: the host's name
  int threads = 0;            // 0: as the coordinator asks, else the number of cores
  bool insecure = false;      // allow listening beyond this machine without keys
  std::string backend_cache;  // file that remembers measured choices of a backend (kernels/convolution_select.hpp)
  bool once = false;          // leave after one session, or when nobody has opened one within a minute
  int shared_memory = -1;     // inherited descriptor of the memory it shares with the participants of its one session; -1: none
  int parent = 0;             // leave when this process is no longer the parent (0: does not matter)
};

// Serves until `stop` becomes true (or as `once` says). `announce` is called with the address when it listens.
// Errors: the address cannot be bound, or must not be.
base::Status serve(const WorkerOptions& options, const std::atomic<bool>& stop, void (*announce)(const std::string& address));

}  // namespace tessera::cluster
