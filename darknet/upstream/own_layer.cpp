#include "darknet/upstream/own_layer.hpp"

#include <cstdlib>
#include <new>

#include "base/text.hpp"

namespace tessera::darknet {

namespace {

// The object stands in a pointer that upstream declares and uses nowhere.
layer*& slot(layer& l) { return l.input_save_layer; }

void forward_own(layer l, network net) { own_layer(l)->forward(l, net); }
void backward_own(layer l, network net) { own_layer(l)->backward(l, net); }
void update_own(layer l, update_args arguments) { own_layer(l)->update(l, arguments); }

void fit(float*& buffer, long count) {
  std::free(buffer);
  buffer = static_cast<float*>(std::calloc(static_cast<std::size_t>(count), sizeof(float)));
  if (!buffer) throw std::bad_alloc();
}

FindMaker makers = nullptr;

}  // namespace

std::string OwnLayer::fill(graph::Layer&) const { return "it is computed as a whole, by a layer of plugins/layers"; }

void set_layer_makers(FindMaker find) { makers = find; }
FindMaker layer_makers() { return makers; }

cfg::LayerShape Making::input() const {
  if (index > 0) return cfg.layers[static_cast<std::size_t>(index - 1)];
  const cfg::CfgSection& net = cfg.file.sections.front();
  cfg::LayerShape shape;
  shape.c = net.integer("channels", 0), shape.h = net.integer("height", 0), shape.w = net.integer("width", 0);
  shape.outputs = shape.c * shape.h * shape.w;
  return shape;
}

std::vector<int> Making::sources(std::string_view key) const {
  std::vector<int> layers;
  for (const std::string& part : base::split(section().text(key, ""), ',')) {
    const int number = static_cast<int>(*base::to_integer(part));
    layers.push_back(number < 0 ? index + number : number);
  }
  return layers;
}

OwnLayer* own_layer(const layer& l) { return reinterpret_cast<OwnLayer*>(l.input_save_layer); }

layer blank_layer(const Making& making, LAYER_TYPE type) {
  const cfg::LayerShape &in = making.input(), &out = making.shape();
  layer l{};
  l.type = type;
  l.activation = LINEAR;
  l.batch = making.batch;
  l.w = static_cast<int>(in.w), l.h = static_cast<int>(in.h), l.c = static_cast<int>(in.c);
  l.inputs = static_cast<int>(in.outputs);
  l.out_c = static_cast<int>(out.c);
  set_output(l, static_cast<int>(out.w), static_cast<int>(out.h));
  return l;
}

void install(layer& l, std::unique_ptr<OwnLayer> object) {
  slot(l) = reinterpret_cast<layer*>(object.release());
  l.forward = forward_own;
  l.backward = backward_own;
  l.update = update_own;
}

void set_output(layer& l, int w, int h) {
  l.out_w = w, l.out_h = h;
  l.outputs = l.out_c * w * h;
  fit(l.output, elements(l));
  fit(l.delta, elements(l));
}

}  // namespace tessera::darknet
