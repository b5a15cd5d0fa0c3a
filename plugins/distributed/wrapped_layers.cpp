#include "plugins/distributed/wrapped_layers.hpp"

#include <cstdlib>
#include <map>

#include "base/check.hpp"

namespace tessera::distributed {

namespace {

// Darknet's layer functions get copies of the layer and the network, so the owner is found by what both share: the
// array of layers, and for updates, which see no network, the first wrapped layer's weights.
struct Owner {
  WrappedRange* range;
  LayerRange layers;
};
std::map<const void*, Owner>& owners() {
  static std::map<const void*, Owner> map;
  return map;
}

const Owner& owner_of(const void* key) {
  const auto found = owners().find(key);
  TESSERA_CHECK(found != owners().end(), "a wrapped layer without an owner");
  return found->second;
}

// The work of a whole range is done when Darknet comes to its first layer (forward) or its last (backward).
void forward_wrapped(layer, network net) {
  const Owner& owner = owner_of(net.layers);
  if (net.index == owner.layers.begin) owner.range->forward(net);
}

void backward_wrapped(layer, network net) {
  const Owner& owner = owner_of(net.layers);
  if (net.index == owner.layers.end - 1) owner.range->backward(net);
}

void update_wrapped(layer l, update_args arguments) { owner_of(l.weights).range->update(arguments); }

void release(float*& buffer) {
  std::free(buffer);
  buffer = nullptr;
}

void make_again(float*& buffer, std::size_t elements) {
  if (!buffer) buffer = static_cast<float*>(std::calloc(elements, sizeof(float)));
}

const layer* first_with_weights(const network* net, LayerRange range) {
  for (int i = range.begin; i < range.end; ++i)
    if (net->layers[i].type == CONVOLUTIONAL) return &net->layers[i];
  return nullptr;
}

}  // namespace

base::Status parameters_changed(const network& net) {
  const auto found = owners().find(net.layers);
  return found == owners().end() ? base::Status{} : found->second.range->parameters_changed();
}

WrappedLayers::WrappedLayers(network* net, LayerRange range, std::vector<bool> delivered, WrappedRange& owner)
    : net_(net), range_(range), delivered_(std::move(delivered)) {
  owners()[net->layers] = {&owner, range};
  for (int i = range.begin; i < range.end; ++i) {
    layer& l = net->layers[i];
    functions_.push_back({l.forward, l.backward, l.update});
    l.forward = forward_wrapped;
    l.backward = backward_wrapped;
    l.update = nullptr;
  }
  if (const layer* first = first_with_weights(net, range)) {
    net->layers[first - net->layers].update = update_wrapped;
    owners()[first->weights] = {&owner, range};
  }
  release_buffers();
}

WrappedLayers::~WrappedLayers() {
  owners().erase(net_->layers);
  if (const layer* first = first_with_weights(net_, range_)) owners().erase(first->weights);
  for (int i = range_.begin; i < range_.end; ++i) {
    layer& l = net_->layers[i];
    const Functions& f = functions_[static_cast<std::size_t>(i - range_.begin)];
    l.forward = f.forward, l.backward = f.backward, l.update = f.update;
    const auto elements = static_cast<std::size_t>(l.outputs) * static_cast<std::size_t>(l.batch);
    make_again(l.output, elements);
    make_again(l.delta, elements);
    if (l.type == CONVOLUTIONAL && l.batch_normalize) make_again(l.x, elements), make_again(l.x_norm, elements);
    if (l.type == MAXPOOL && !l.indexes) l.indexes = static_cast<int*>(std::calloc(elements, sizeof(int)));
  }
}

void WrappedLayers::release_buffers() {
  for (int i = range_.begin; i < range_.end; ++i) {
    layer& l = net_->layers[i];
    if (!delivered_[static_cast<std::size_t>(i - range_.begin)]) release(l.output), release(l.delta);
    release(l.x), release(l.x_norm);
    std::free(l.indexes);
    l.indexes = nullptr;
  }
}

}  // namespace tessera::distributed
