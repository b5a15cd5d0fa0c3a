#include "darknet/upstream/network_file.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cfg/cfg_limits.hpp"
#include "darknet/upstream/adam.hpp"
#include "darknet/upstream/dialect.hpp"
#include "darknet/upstream/region_backward.hpp"
#include "darknet/upstream/upstream_errors.hpp"
#include "darknet/upstream/weights_file.hpp"

namespace tessera::darknet {

void NetworkDeleter::operator()(network* net) const {
  forget_settings(*net);
  free_network(net);
}

namespace {

// The scratch memory of the layers that [crnn] is made of, which upstream forgets to count.
void widen_workspace(network& net) {
  std::size_t needed = 0, had = 0;
  for (int i = 0; i < net.n; ++i) {
    const layer& l = net.layers[i];
    had = std::max(had, l.workspace_size);
    if (l.type != CRNN) continue;
    for (const layer* part : {l.input_layer, l.self_layer, l.output_layer}) needed = std::max(needed, part->workspace_size);
  }
  if (needed <= had) return;
  std::free(net.workspace);
  net.workspace = static_cast<float*>(std::calloc(1, needed));
}

}  // namespace

base::Result<std::unique_ptr<network, NetworkDeleter>> parse_network(const cfg::Cfg& cfg) {
  if (cfg.alexey && !layer_makers())
    return base::error(base::ErrorCode::kInvalidArgument, "{}: this program has no layers of AlexeyAB's Darknet", cfg.file.path);
  TESSERA_TRY(check_memory(cfg));
  TESSERA_TRY(cfg::check_named_files(cfg));
  TESSERA_ASSIGN(const std::unique_ptr<MemoryFile> plain, MemoryFile::create(upstream_text(cfg)));
  std::string path = plain->path();
  const Parsing parsing(cfg);
  std::unique_ptr<network, NetworkDeleter> net;
  try {
    net.reset(parse_network_cfg(path.data()));
  } catch (const UpstreamError& failure) {
    return base::error(base::ErrorCode::kOutOfMemory, "{}: {}", cfg.file.path, failure.what());
  }
  widen_workspace(*net);
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

namespace {

base::Result<LoadedNetwork> load_network(cfg::CfgFile file, std::uint64_t seed, Gradients gradients) {
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

}  // namespace

base::Result<LoadedNetwork> load_network_file(const std::string& path, std::uint64_t seed, Gradients gradients) {
  TESSERA_ASSIGN(cfg::CfgFile file, cfg::read_cfg_file(path));
  return load_network(std::move(file), seed, gradients);
}

base::Result<LoadedNetwork> load_network_for_one_picture(const std::string& path) {
  TESSERA_ASSIGN(cfg::CfgFile file, cfg::read_cfg_file(path));
  cfg::set_batch_of_one(file);
  return load_network(std::move(file), 0, Gradients::kTrue);
}

}  // namespace tessera::darknet
