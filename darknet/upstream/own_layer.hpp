// Layer kinds that upstream's Darknet lacks. They are ordinary entries of net->layers, whose functions lead to an object here.
#pragma once

#include <ctime>

#include <functional>
#include <memory>
#include <vector>

#include <darknet.h>
#include "cfg/cfg_check.hpp"
#include "graph/graph.hpp"

namespace tessera::darknet {

// An array of a layer that weights files hold.
struct StoredBlock {
  float* values;
  std::size_t count;
};

class OwnLayer {
 public:
  virtual ~OwnLayer() = default;

  // As Darknet's layer functions: `net` is the copy that forward_network() and backward_network() hand down. Deltas are minus
  // the gradient of the loss, and are added to what is there. A layer's delta may be changed by its own backward().
  virtual void forward(const layer& l, const network& net) = 0;
  virtual void backward(const layer& l, const network& net) = 0;
  virtual void update(const layer&, const update_args&) {}

  // Fills in the shape for a new input of w x h (layers before it have theirs already).
  virtual void resize(layer& l, int w, int h, const network& net) = 0;

  // Other layers than the one before that it reads, the one before first; absolute numbers.
  virtual std::vector<int> inputs(int index) const { return {index - 1}; }
  // Weights and momentum that `layer` itself has no place for, in a file's order.
  virtual std::vector<StoredBlock> weights(const layer&) { return {}; }
  virtual std::vector<StoredBlock> momentum(const layer&) { return {}; }
  // What a tile of it needs to know beside what upstream's struct holds, into `node`. The reason why it cannot be cut into tiles;
  // empty when it can.
  virtual std::string fill(graph::Layer& node) const;
  // As upstream's CPU code: what 1x1 convolutions have for their input replaces the rest of its delta.
  virtual void use_stock_gradients() {}
};

// A detection head. Its layer has upstream's type YOLO.
class OwnHead : public OwnLayer {
 public:
  // As upstream's yolo_num_detections() and get_yolo_detections(), for the first sample; boxes relative to the network's input.
  virtual int count_detections(const layer& l, float threshold) const = 0;
  virtual int detections(const layer& l, int net_w, int net_h, float threshold, detection* found) const = 0;
  // Non-maximum suppression as this head wants it, in place of upstream's do_nms_sort().
  virtual void suppress(detection* found, int count, int classes, float threshold) const = 0;
};

// What a layer is made from.
struct Making {
  const cfg::Cfg& cfg;
  int index;
  int batch;

  const cfg::LayerShape& shape() const { return cfg.layers[static_cast<std::size_t>(index)]; }
  const cfg::CfgSection& section() const { return cfg.file.sections[static_cast<std::size_t>(shape().section)]; }
  // Of the layer's input.
  cfg::LayerShape input() const;
  // The layers a list like "-1,12" names.
  std::vector<int> sources(std::string_view key) const;
};

// The object behind a layer; null for one of upstream's.
OwnLayer* own_layer(const layer& l);

// A layer of `type` with the shapes the cfg check found, with output and delta.
layer blank_layer(const Making& making, LAYER_TYPE type);
// Binds the object to the layer's functions. The layer owns it from here on (free_layer deletes it).
void install(layer& l, std::unique_ptr<OwnLayer> object);
// Sets the sizes that follow from out_w, out_h and out_c, and makes output and delta fit.
void set_output(layer& l, int w, int h);

inline long elements(const layer& l) { return static_cast<long>(l.batch) * l.outputs; }

// Makes a layer from its section; kinds are files of plugins/layers.
using Maker = layer (*)(const Making&);
// Null for a section that upstream's own code computes. `type`: the section's canonical name.
using FindMaker = Maker (*)(const cfg::Cfg& cfg, const cfg::CfgSection& section, const std::string& type);
// Called once, before networks are parsed, by whoever joins Darknet and the plugins.
void set_layer_makers(FindMaker find);
FindMaker layer_makers();

}  // namespace tessera::darknet
