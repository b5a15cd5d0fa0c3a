// What upstream's code calls instead of its own functions: the link gives `--wrap=SYMBOL` for each __wrap_ function
// here (darknet/README.md lists them). Programs linked without the wraps never pull this file in.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>

#include <darknet.h>
#include "cfg/cfg_check.hpp"
#include "darknet/upstream/dialect.hpp"
#include "darknet/upstream/network_file.hpp"
#include "darknet/upstream/upstream_errors.hpp"
#include "darknet/upstream/weights_file.hpp"

namespace tessera::darknet {
namespace {

template <typename T>
T value_or_fail(base::Result<T> result) {
  if (!result) fail_upstream(result.error().message);
  return std::move(*result);
}

}  // namespace
}  // namespace tessera::darknet

using tessera::darknet::fail_upstream;
using tessera::darknet::value_or_fail;

extern "C" {

network* __real_parse_network_cfg(char* filename);

// Upstream's own commands accept cfgs with a [distributed] section (and train on this machine alone).
network* __wrap_parse_network_cfg(char* filename) {
  using namespace tessera;
  if (darknet::Parsing::active()) return __real_parse_network_cfg(filename);
  cfg::CfgFile file = value_or_fail(cfg::read_cfg_file(filename));
  return value_or_fail(darknet::parse_network(value_or_fail(cfg::check_cfg(std::move(file))))).release();
}

void __wrap_load_weights_upto(network* net, char* filename, int start, int cutoff) {
  value_or_fail(tessera::darknet::load_weights_file(net, filename, {start, cutoff, false}));
}

void __wrap_load_weights(network* net, char* filename) { __wrap_load_weights_upto(net, filename, 0, net->n); }

void __wrap_save_weights_upto(network* net, char* filename, int cutoff) {
  value_or_fail(tessera::darknet::save_weights_file(net, filename, cutoff));
}

void __wrap_save_weights(network* net, char* filename) { __wrap_save_weights_upto(net, filename, net->n); }

void __wrap_file_error(char* filename) { fail_upstream(fmt::format("{}: cannot open: {}", filename, std::strerror(errno))); }

void __wrap_error(const char* message) { fail_upstream(message); }

detection* __real_get_network_boxes(network* net, int w, int h, float thresh, float hier, int* map, int relative, int* num);

// Upstream counts the boxes above the threshold in one loop and fills them in by another, which disagree about what is no
// number. Nonsense is no object: where weights or cfg are not what they should be, the layer is named and has none.
detection* __wrap_get_network_boxes(network* net, int w, int h, float thresh, float hier, int* map, int relative, int* num) {
  for (int i = 0; i < net->n; ++i) {
    const layer& l = net->layers[i];
    if (l.type != YOLO && l.type != REGION && l.type != DETECTION) continue;
    float* const end = l.output + static_cast<std::ptrdiff_t>(l.outputs) * l.batch;
    const auto bad = [](float value) { return !std::isfinite(value); };
    if (std::find_if(l.output, end, bad) == end) continue;
    fmt::print(stderr, "warning: {}: its output is not all numbers; no objects there; is it the right weights file?\n",
               tessera::darknet::layer_label(net, i));
    std::fill(l.output, end, 0.0f);
  }
  detection* const found = __real_get_network_boxes(net, w, h, thresh, hier, map, relative, num);
  for (detection* one = found; one != found + *num; ++one)
    if (!std::isfinite(one->bbox.x + one->bbox.y + one->bbox.w + one->bbox.h)) {
      one->objectness = 0;
      std::fill_n(one->prob, one->classes, 0.0f);
    }
  return found;
}

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
