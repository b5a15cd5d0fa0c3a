// [distill], a classifier's last layer: [softmax] with a second, soft target for every picture.
#pragma once

#include <darknet.h>
#include "base/result.hpp"
#include "cfg/cfg_check.hpp"
#include "plugins/distill/distill_loss.hpp"

namespace tessera::distill {

// A row of a batch's truths: the classes' probabilities, the teacher's logits, and 1 where there are any; with 0, as every
// loader leaves it, the cross-entropy alone is trained.
constexpr int truth_columns(int classes) { return 2 * classes + 1; }

// Upstream has built [distill] as [softmax]: gives it its own functions and settings, and the network its truths. Does nothing
// without [distill].
void install(network* net, const cfg::Cfg& cfg);
// The same for any network whose last layer is [softmax].
void install(network* net, const DistillSettings& settings);

}  // namespace tessera::distill
