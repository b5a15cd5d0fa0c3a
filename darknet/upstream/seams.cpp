// What upstream's code calls instead of its own functions: the link gives `--wrap=SYMBOL` for each __wrap_ function
// here (darknet/README.md lists them). Programs linked without the wraps never pull this file in.
#include <fmt/format.h>

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <thread>

#include <darknet.h>
#include "cfg/cfg_check.hpp"
#include "darknet/upstream/network_file.hpp"
#include "darknet/upstream/upstream_errors.hpp"
#include "darknet/upstream/weights_file.hpp"

namespace tessera::darknet {
namespace {

const std::thread::id main_thread = std::this_thread::get_id();

// Unwinds to main(). Upstream's loader threads have nobody to catch it, so there the process ends.
[[noreturn]] void fail(const std::string& message) {
  if (std::this_thread::get_id() == main_thread) throw UpstreamError(message);
  std::fflush(stdout);
  fmt::print(stderr, "darknet: {}\n", message);
  std::_Exit(1);
}

template <typename T>
T value_or_fail(base::Result<T> result) {
  if (!result) fail(result.error().message);
  return std::move(*result);
}

}  // namespace
}  // namespace tessera::darknet

using tessera::darknet::fail;
using tessera::darknet::value_or_fail;

extern "C" {

network* __real_parse_network_cfg(char* filename);

// Upstream's own commands accept cfgs with a [distributed] section (and train on this machine alone).
network* __wrap_parse_network_cfg(char* filename) {
  using namespace tessera;
  cfg::CfgFile file = value_or_fail(cfg::read_cfg_file(filename));
  const cfg::Cfg cfg = value_or_fail(cfg::check_cfg(std::move(file)));
  const auto plain = value_or_fail(darknet::MemoryFile::create(cfg::upstream_text(cfg.file)));
  std::string path = plain->path();
  return __real_parse_network_cfg(path.data());
}

void __wrap_load_weights_upto(network* net, char* filename, int start, int cutoff) {
  value_or_fail(tessera::darknet::load_weights_file(net, filename, {start, cutoff, false}));
}

void __wrap_load_weights(network* net, char* filename) { __wrap_load_weights_upto(net, filename, 0, net->n); }

void __wrap_save_weights_upto(network* net, char* filename, int cutoff) {
  value_or_fail(tessera::darknet::save_weights_file(net, filename, cutoff));
}

void __wrap_save_weights(network* net, char* filename) { __wrap_save_weights_upto(net, filename, net->n); }

void __wrap_file_error(char* filename) { fail(fmt::format("{}: cannot open: {}", filename, std::strerror(errno))); }

void __wrap_error(const char* message) { fail(message); }

// The loss layers print a line each for every subdivision, full of -nan where a head saw no object. Other output
// passes.
int __wrap_printf(const char* format, ...) {
  if (std::strncmp(format, "Region ", 7) == 0) return 0;
  std::va_list arguments;
  va_start(arguments, format);
  const int count = std::vprintf(format, arguments);
  va_end(arguments);
  return count;
}
}
