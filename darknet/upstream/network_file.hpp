// From a cfg on disk to a Darknet network.
#pragma once

#include <ctime>

#include <cstdint>
#include <memory>
#include <string>

#include <darknet.h>
#include "base/result.hpp"
#include "cfg/cfg_check.hpp"
#include "darknet/training/engine.hpp"

namespace tessera::darknet {

struct NetworkDeleter {
  void operator()(network* net) const;
};

struct LoadedNetwork {
  cfg::Cfg cfg;
  std::unique_ptr<network, NetworkDeleter> net;
  std::uint64_t weights_hash = 0;  // 0: no weights were given
  std::string weights;
  std::unique_ptr<Inference> inference;  // of networks for tests; goes before the network does
};

// Upstream allocates without looking at what it gets. Asks the system first whether it would give that much.
[[nodiscard]] base::Status check_memory(const cfg::Cfg& cfg);

// Checks the cfg and has upstream build the network from it, its random weights drawn from `seed`. Upstream's parser
// sees the cfg without the [distributed] section and without comments.
// Gradients are the true ones (plugins/layers/dialect.hpp) unless upstream's are asked for.
enum class Gradients { kTrue, kStock };
[[nodiscard]] base::Result<LoadedNetwork> load_network_file(const std::string& cfg, std::uint64_t seed,
                                                            Gradients gradients = Gradients::kTrue);

// As the testing commands need it: one picture at a time, whatever the cfg's batch is.
[[nodiscard]] base::Result<LoadedNetwork> load_network_for_one_picture(const std::string& cfg);

// The network of a checked cfg, its weights random, as upstream's parser and our layers make it.
[[nodiscard]] base::Result<std::unique_ptr<network, NetworkDeleter>> parse_network(const cfg::Cfg& cfg);

// A file in memory with a path that upstream's parser can open.
class MemoryFile {
 public:
  static base::Result<std::unique_ptr<MemoryFile>> create(const std::string& content);
  ~MemoryFile();
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  std::string path() const;

 private:
  explicit MemoryFile(int handle) : handle_(handle) {}
  int handle_;
};

}  // namespace tessera::darknet
