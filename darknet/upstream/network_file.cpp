#include "darknet/upstream/network_file.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "darknet/upstream/adam.hpp"
#include "darknet/upstream/dialect.hpp"
#include "darknet/upstream/region_backward.hpp"
#include "darknet/upstream/weights_file.hpp"

namespace tessera::darknet {

void NetworkDeleter::operator()(network* net) const {
  forget_settings(*net);
  free_network(net);
}

base::Result<std::unique_ptr<network, NetworkDeleter>> parse_network(const cfg::Cfg& cfg) {
  if (cfg.alexey && !layer_makers())
    return base::error(base::ErrorCode::kInvalidArgument, "{}: this program has no layers of AlexeyAB's Darknet", cfg.file.path);
  TESSERA_TRY(check_memory(cfg));
  TESSERA_ASSIGN(const std::unique_ptr<MemoryFile> plain, MemoryFile::create(upstream_text(cfg)));
  std::string path = plain->path();
  const Parsing parsing(cfg);
  std::unique_ptr<network, NetworkDeleter> net(parse_network_cfg(path.data()));
  set_settings(*net, net_settings(cfg));
  return net;
}

base::Result<std::unique_ptr<MemoryFile>> MemoryFile::create(const std::string& content) {
  const int handle = ::memfd_create("cfg", MFD_CLOEXEC);
  if (handle < 0) return base::error(base::ErrorCode::kIo, "cannot make a file in memory: {}", std::strerror(errno));
  std::unique_ptr<MemoryFile> file(new MemoryFile(handle));
  for (std::size_t done = 0; done < content.size();) {
    const ssize_t written = ::write(handle, content.data() + done, content.size() - done);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return base::error(base::ErrorCode::kIo, "cannot write to a file in memory: {}", std::strerror(errno));
    done += static_cast<std::size_t>(written);
  }
  return file;
}

MemoryFile::~MemoryFile() { ::close(handle_); }

std::string MemoryFile::path() const { return fmt::format("/proc/self/fd/{}", handle_); }

base::Status check_memory(const cfg::Cfg& cfg) {
  const double bytes = static_cast<double>(cfg.floats) * sizeof(float);
  void* const taken = bytes > static_cast<double>(SIZE_MAX / 2) ? MAP_FAILED
                                                                : ::mmap(nullptr, static_cast<std::size_t>(bytes) + 1,
                                                                         PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (taken != MAP_FAILED) return ::munmap(taken, static_cast<std::size_t>(bytes) + 1), base::Status{};
  return base::error(
      base::ErrorCode::kInvalidArgument,
      "{}:{}: this network has {:.1f} GB of values, more memory than this machine gives; raise subdivisions=, or make the input "
      "or the layers smaller",
      cfg.file.path, cfg.file.sections.front().line, bytes / 1e9);
}

base::Result<LoadedNetwork> load_network_file(const std::string& path, std::uint64_t seed, Gradients gradients) {
  TESSERA_ASSIGN(cfg::CfgFile file, cfg::read_cfg_file(path));
  TESSERA_ASSIGN(cfg::Cfg cfg, cfg::check_cfg(std::move(file)));
  for (const std::string& warning : cfg.file.warnings) fmt::print(stderr, "warning: {}\n", warning);
  std::srand(static_cast<unsigned>(seed));  // upstream draws weights with rand()
  LoadedNetwork loaded;
  TESSERA_ASSIGN(loaded.net, parse_network(cfg));
  loaded.cfg = std::move(cfg);
  gradients == Gradients::kTrue ? use_true_gradients(loaded.net.get()) : use_stock_gradients(loaded.net.get());
  enable_region_backward(loaded.net.get());
  enable_adam(loaded.net.get(), loaded.cfg.file.sections.front().integer("amsgrad", 0) != 0);
  return loaded;
}

}  // namespace tessera::darknet
