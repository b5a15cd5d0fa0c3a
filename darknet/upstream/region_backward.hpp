// Back-propagation through [region], the loss of YOLOv2.
#pragma once

#include <ctime>

#include "darknet.h"

namespace tessera::darknet {

// Upstream's CPU path computes the loss of a [region] layer and its delta, but its backward function is empty: networks
// of the YOLOv2 family do not learn there. This gives every such layer the backward function that upstream has for GPUs
// (backward_region_layer_gpu): the logistic slope for x, y and objectness, then the delta is added to that of the layer
// before. Inference and all other layers are untouched.
void enable_region_backward(network* net);

}  // namespace tessera::darknet
