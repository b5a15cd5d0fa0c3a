// A cfg in AlexeyAB's dialect: which layers are ours, what upstream's parser is given in their place, and what [net] says
// beyond upstream.
#pragma once

#include <cstdint>
#include <string>

#include "darknet/upstream/own_layer.hpp"

namespace tessera::darknet {

// The text for upstream's parser: without [distributed], [gkt] and amsgrad, [distill] as [softmax]. A layer of ours stands there as [upsample] with a stride that no real one has; it is replaced
// as upstream makes it.
std::string upstream_text(const cfg::Cfg& cfg);

// While one lives, networks that this thread parses take their own layers from `cfg`.
class Parsing {
 public:
  explicit Parsing(const cfg::Cfg& cfg);
  ~Parsing();
  Parsing(const Parsing&) = delete;
  Parsing& operator=(const Parsing&) = delete;

  static bool active();
};

// What upstream's network has no place for.
struct NetSettings {
  bool stretch = false;          // pictures are stretched to the network's size, not scaled to fit
  bool epsilon_in_root = false;  // batch normalisation divides by sqrt(variance + 1e-5), as AlexeyAB's Darknet
  bool flip = true;              // pictures are mirrored at random in training
  float resize = 1;              // pictures are scaled at random by up to this factor
  bool cyclic_rate = false;      // policy=sgdr
  float least_rate = 1e-5f, rate = 0, cycle_factor = 2;
  long cycle = 0;
};

NetSettings net_settings(const cfg::Cfg& cfg);

// Binds settings to a network; settings_of() of any other network are the defaults. Used from one thread.
void set_settings(const network& net, const NetSettings& settings);
void forget_settings(const network& net);
const NetSettings& settings_of(const network& net);

// The learning rate of iteration `iteration` (from 1) of a cyclic schedule (arXiv:1608.03983).
float cyclic_rate(const NetSettings& settings, std::int64_t iteration);

// The gradient of every layer's input is added to what routes, shortcuts and heads have put there. Without this call upstream's
// 1x1 convolutions, reorg, batchnorm and activation layers replace it, as its CPU code does. The layers of ours follow.
void use_true_gradients(network* net);
void use_stock_gradients(network* net);
// Non-maximum suppression as the network's last head wants it.
void suppress(const network& net, detection* found, int count, int classes, float threshold);
// Whether the layer's input delta is added to (true) or replaced, of those that upstream lets replace.
bool adds_gradient(const layer& l);

}  // namespace tessera::darknet
