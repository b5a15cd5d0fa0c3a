// Adam for training on processors. Upstream takes Adam's steps on GPUs only; on a processor it would use momentum.
#pragma once

#include <darknet.h>

namespace tessera::darknet {

// The value of network::adam (and so of update_args::adam) that means AMSGrad; 1 is Adam, 0 momentum. With it, the layers'
// second moments (v, bias_v, scale_v) are followed in memory by the largest so far.
inline constexpr int kAmsgrad = 2;

// For a network whose cfg has adam=1: every layer that upstream would update with momentum takes steps of Adam instead,
// and has moments. Does nothing without adam=1.
void enable_adam(network* net, bool amsgrad);

// One step of one layer: its *_updates hold the gradient, and zeros afterwards. (Weight decay holds for biases and scales,
// too, as on upstream's GPUs.)
void adam_step(layer l, update_args arguments);

}  // namespace tessera::darknet
