#include "darknet/upstream/dialect.hpp"

#include <algorithm>
#include <cmath>
#include <map>

#include "base/text.hpp"
#include "cfg/cfg_keys.hpp"

extern "C" {
void backward_convolutional_layer(layer l, network net);
void backward_reorg_layer(layer l, network net);
void backward_batchnorm_layer(layer l, network net);
void backward_activation_layer(layer l, network net);
layer __real_make_upsample_layer(int batch, int w, int h, int c, int stride);
void __real_resize_upsample_layer(layer* l, int w, int h);
int __real_resize_network(network* net, int w, int h);
void __real_free_layer(layer l);
int __real_yolo_num_detections(layer l, float threshold);
int __real_get_yolo_detections(layer l, int w, int h, int net_w, int net_h, float threshold, int* map, int relative, detection* found);
void correct_yolo_boxes(detection* found, int count, int w, int h, int net_w, int net_h, int relative);
}

namespace tessera::darknet {
namespace {

constexpr int kFirstCode = 1 << 20;  // strides from here on name our layers
thread_local const cfg::Cfg* parsing = nullptr;
thread_local const network* resizing = nullptr;

Maker maker(const cfg::Cfg& cfg, const cfg::CfgSection& section, const std::string& type) {
  return layer_makers() ? layer_makers()(cfg, section, type) : nullptr;
}

// Keys that upstream reads for every layer, whatever its kind.
bool is_common_key(const std::string& key) {
  static const char* kCommon[] = {"truth",   "onlyforward",    "stopbackward",  "dontsave", "dontload",
                                  "numload", "dontloadscales", "learning_rate", "smooth"};
  return std::find(std::begin(kCommon), std::end(kCommon), key) != std::end(kCommon);
}

std::string own_text(const cfg::CfgSection& section, int index) {
  std::string text = fmt::format("[upsample]\nstride={}\n", kFirstCode + index);
  for (const cfg::CfgOption& option : section.options)
    if (is_common_key(option.key)) text += fmt::format("{}={}\n", option.key, option.value);
  return text;
}

// Upstream's backward functions that replace their input's delta, by layer kind.
auto replacing_backward(const layer& l) -> decltype(l.backward) {
  if (l.type == CONVOLUTIONAL && l.size == 1) return backward_convolutional_layer;
  if (l.type == REORG) return backward_reorg_layer;
  if (l.type == BATCHNORM) return backward_batchnorm_layer;
  if (l.type == ACTIVE) return backward_activation_layer;
  return nullptr;
}

void backward_adding(layer l, network net) {
  if (!net.delta) return replacing_backward(l)(l, net);
  const long count = static_cast<long>(l.batch) * l.inputs;
  const std::vector<float> before(net.delta, net.delta + count);
  std::fill_n(net.delta, count, 0.0f);
  replacing_backward(l)(l, net);
  for (long i = 0; i < count; ++i) net.delta[i] += before[static_cast<std::size_t>(i)];
}

}  // namespace

std::string upstream_text(const cfg::Cfg& cfg) {
  std::string text;
  int index = 0;
  for (const cfg::CfgSection& section : cfg.file.sections) {
    const std::string type(cfg::find_section_spec(section.name)->name);
    if (type == "distributed" || type == "gkt") continue;
    if (type != "net" && maker(cfg, section, type)) {
      text += own_text(section, index++);
      continue;
    }
    const bool distill = type == "distill";
    text += fmt::format("[{}]\n", distill ? "softmax" : section.name);
    index += type != "net";
    for (const cfg::CfgOption& option : section.options)
      if (option.key != "amsgrad" && !(distill && (option.key == "temperature" || option.key == "alpha")))
        text += fmt::format("{}={}\n", option.key, option.value == "sgdr" ? "constant" : option.value);
  }
  return text;
}

Parsing::Parsing(const cfg::Cfg& cfg) { parsing = &cfg; }
Parsing::~Parsing() { parsing = nullptr; }
bool Parsing::active() { return parsing != nullptr; }

namespace {
std::map<const layer*, NetSettings>& all_settings() {
  static std::map<const layer*, NetSettings> map;
  return map;
}
}  // namespace

void set_settings(const network& net, const NetSettings& settings) { all_settings()[net.layers] = settings; }
void forget_settings(const network& net) { all_settings().erase(net.layers); }
const NetSettings& settings_of(const network& net) {
  static const NetSettings kDefault;
  const auto found = all_settings().find(net.layers);
  return found == all_settings().end() ? kDefault : found->second;
}

NetSettings net_settings(const cfg::Cfg& cfg) {
  const cfg::CfgSection& net = cfg.file.sections.front();
  NetSettings s;
  s.stretch = cfg.alexey && !net.integer("letter_box", 0);
  s.epsilon_in_root = cfg.alexey;
  s.flip = net.integer("flip", 1);
  for (const cfg::CfgSection& section : cfg.file.sections) s.resize = static_cast<float>(section.real("resize", s.resize));
  s.cyclic_rate = net.text("policy", "") == "sgdr";
  s.least_rate = static_cast<float>(net.real("learning_rate_min", 1e-5));
  s.rate = static_cast<float>(net.real("learning_rate", 0.001));
  s.cycle = net.integer("batches_per_cycle", net.integer("sgdr_cycle", net.integer("max_batches", 1)));
  s.cycle_factor = static_cast<float>(net.real("batches_cycle_mult", net.real("sgdr_mult", 2)));
  return s;
}

float cyclic_rate(const NetSettings& s, std::int64_t iteration) {
  double start = 0, cycle = static_cast<double>(std::max(1L, s.cycle));
  while (start + cycle < static_cast<double>(iteration)) {
    start += cycle;
    cycle = std::max(1.0, std::floor(cycle * s.cycle_factor));
  }
  constexpr double kPi = 3.14159265358979;
  return static_cast<float>(s.least_rate +
                            0.5 * (s.rate - s.least_rate) * (1 + std::cos((static_cast<double>(iteration) - start) * kPi / cycle)));
}

void use_true_gradients(network* net) {
  for (int i = 0; i < net->n; ++i) {
    layer& l = net->layers[i];
    if (own_layer(l) || !replacing_backward(l)) continue;
    l.backward = backward_adding;
    l.joint = 1;  // a field that upstream declares and uses nowhere
  }
}

void use_stock_gradients(network* net) {
  for (int i = 0; i < net->n; ++i)
    if (OwnLayer* own = own_layer(net->layers[i])) own->use_stock_gradients();
}

void suppress(const network& net, detection* found, int count, int classes, float threshold) {
  for (int i = net.n; i-- > 0;)
    if (const auto* head = dynamic_cast<const OwnHead*>(own_layer(net.layers[i]))) return head->suppress(found, count, classes, threshold);
  do_nms_sort(found, count, classes, threshold);
}

bool adds_gradient(const layer& l) { return l.joint == 1; }

}  // namespace tessera::darknet

extern "C" {

using tessera::darknet::own_layer;

layer __wrap_make_upsample_layer(int batch, int w, int h, int c, int stride) {
  using namespace tessera::darknet;
  if (stride < kFirstCode || !parsing) return __real_make_upsample_layer(batch, w, h, c, stride);
  const Making making{*parsing, stride - kFirstCode, batch};
  return maker(*parsing, making.section(), making.shape().type)(making);
}

// Upstream resizes by the layer's type and knows none of ours: for the time of it they are [upsample] layers.
int __wrap_resize_network(network* net, int w, int h) {
  std::vector<LAYER_TYPE> types;
  for (int i = 0; i < net->n; ++i) {
    types.push_back(net->layers[i].type);
    if (own_layer(net->layers[i])) net->layers[i].type = UPSAMPLE;
  }
  tessera::darknet::resizing = net;
  const int result = __real_resize_network(net, w, h);
  tessera::darknet::resizing = nullptr;
  for (int i = 0; i < net->n; ++i) net->layers[i].type = types[static_cast<std::size_t>(i)];
  return result;
}

void __wrap_resize_upsample_layer(layer* l, int w, int h) {
  if (auto* own = own_layer(*l)) return own->resize(*l, w, h, *tessera::darknet::resizing);
  __real_resize_upsample_layer(l, w, h);
}

void __wrap_free_layer(layer l) {
  delete own_layer(l);
  __real_free_layer(l);
}

int __wrap_yolo_num_detections(layer l, float threshold) {
  if (const auto* head = dynamic_cast<const tessera::darknet::OwnHead*>(own_layer(l))) return head->count_detections(l, threshold);
  return __real_yolo_num_detections(l, threshold);
}

int __wrap_get_yolo_detections(layer l, int w, int h, int net_w, int net_h, float threshold, int* map, int relative, detection* found) {
  const auto* head = dynamic_cast<const tessera::darknet::OwnHead*>(own_layer(l));
  if (!head) return __real_get_yolo_detections(l, w, h, net_w, net_h, threshold, map, relative, found);
  const int count = head->detections(l, net_w, net_h, threshold, found);
  correct_yolo_boxes(found, count, w, h, net_w, net_h, relative);
  return count;
}
}
