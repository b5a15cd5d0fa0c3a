// Layer kinds that upstream's Darknet lacks, one file each.
#pragma once

#include "darknet/upstream/own_layer.hpp"

namespace tessera::layers {

using darknet::elements;
using darknet::Making;
using darknet::OwnLayer;

layer make_convolution(const Making& making);
layer make_route(const Making& making);
layer make_maxpool(const Making& making);
layer make_avgpool(const Making& making);
layer make_shortcut(const Making& making);
layer make_scale_channels(const Making& making);
layer make_sam(const Making& making);
layer make_reorg3d(const Making& making);
layer make_yolo(const Making& making);
layer make_gaussian_yolo(const Making& making);

// Makes Darknet's networks take these kinds (darknet::set_layer_makers).
void join_layer_kinds();

}  // namespace tessera::layers
