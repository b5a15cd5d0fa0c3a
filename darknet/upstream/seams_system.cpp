// Upstream takes what calloc() gives without looking, and leaves with exit(0) when a file is missing. Both become errors.
// Apart from the other seams: these do not need upstream, so that every program may have them.
#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <thread>

#include "darknet/upstream/upstream_errors.hpp"

namespace tessera::darknet {
namespace {

const std::thread::id main_thread = std::this_thread::get_id();

[[noreturn]] void out_of_memory(double bytes) {
  fail_upstream(
      fmt::format("{:.3g} MB of memory are not to be had; lower batch=, raise subdivisions=, or make the network smaller", bytes / 1e6));
}

}  // namespace

void fail_upstream(const std::string& message) {
  if (std::this_thread::get_id() == main_thread) throw UpstreamError(message);
  std::fflush(stdout);
  fmt::print(stderr, "darknet: {}\n", message);
  std::_Exit(1);
}

}  // namespace tessera::darknet

using tessera::darknet::out_of_memory;

extern "C" {

void* __real_calloc(std::size_t count, std::size_t size);
void* __real_malloc(std::size_t size);
void* __real_realloc(void* memory, std::size_t size);

void* __wrap_calloc(std::size_t count, std::size_t size) {
  void* memory = __real_calloc(count, size);
  if (!memory && count && size) out_of_memory(static_cast<double>(count) * static_cast<double>(size));
  return memory;
}

void* __wrap_malloc(std::size_t size) {
  void* memory = __real_malloc(size);
  if (!memory && size) out_of_memory(static_cast<double>(size));
  return memory;
}

void* __wrap_realloc(void* old, std::size_t size) {
  void* memory = __real_realloc(old, size);
  if (!memory && size) out_of_memory(static_cast<double>(size));
  return memory;
}

void __wrap_exit(int code) {
  std::fflush(stdout);
  tessera::darknet::fail_upstream(fmt::format("upstream's code gave up (exit code {}); its reason is above", code));
}
}
