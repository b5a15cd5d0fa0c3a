#include "plugins/distributed/wrapped_layers.hpp"

#include <algorithm>
#include <cstdlib>
#include <map>

#include "base/check.hpp"
#include "darknet/upstream/weights_file.hpp"

namespace tessera::distributed {

namespace {

// Darknet's layer functions get copies of the layer and the network, so the owner is found by what both share: the
// array of layers (and the layer's place in it), and for updates, which see no network, the range's first weights.
struct Owner {
  WrappedRange* range;
  LayerRange layers;
};
std::map<const layer*, std::vector<Owner>>& owners() {
  static std::map<const layer*, std::vector<Owner>> map;
  return map;
}
std::map<const float*, WrappedRange*>& update_owners() {
  static std::map<const float*, WrappedRange*> map;
  return map;
}

const Owner& owner_of(const network& net) {
  const auto found = owners().find(net.layers);
  TESSERA_CHECK(found != owners().end(), "a wrapped layer of a network without owners");
  const auto owner = std::find_if(found->second.begin(), found->second.end(),
                                  [&](const Owner& o) { return net.index >= o.layers.begin && net.index < o.layers.end; });
  TESSERA_CHECK(owner != found->second.end(), "layer {} is wrapped without an owner", net.index);
  return *owner;
}

// The work of a whole range is done when Darknet comes to its first layer (forward) or its last (backward).
void forward_wrapped(layer, network net) {
  const Owner& owner = owner_of(net);
  if (net.index == owner.layers.begin) owner.range->forward(net);
}

void backward_wrapped(layer, network net) {
  const Owner& owner = owner_of(net);
  if (net.index == owner.layers.end - 1) owner.range->backward(net);
}

void update_wrapped(layer l, update_args arguments) { update_owners().at(l.weights)->update(arguments); }

void release(float*& buffer) {
  std::free(buffer);
  buffer = nullptr;
}

void make_again(float*& buffer, std::size_t elements) {
  if (!buffer) buffer = static_cast<float*>(std::calloc(elements, sizeof(float)));
}

base::Status parameters_changed(const network& net) {
  const auto found = owners().find(net.layers);
  if (found == owners().end()) return {};
  for (const Owner& owner : found->second) TESSERA_TRY(owner.range->parameters_changed());
  return {};
}

// A [dropout] works in the buffers of the layer before it.
void share_with_dropout(network* net) {
  for (int i = 1; i < net->n; ++i)
    if (net->layers[i].type == DROPOUT) net->layers[i].output = net->layers[i - 1].output, net->layers[i].delta = net->layers[i - 1].delta;
}

const layer* first_with_weights(const network* net, LayerRange range) {
  for (int i = range.begin; i < range.end; ++i)
    if (net->layers[i].type == CONVOLUTIONAL) return &net->layers[i];
  return nullptr;
}

}  // namespace

WrappedLayers::WrappedLayers(network* net, LayerRange range, std::vector<bool> delivered, Purpose purpose, WrappedRange& owner)
    : net_(net), range_(range), delivered_(std::move(delivered)), purpose_(purpose) {
  darknet::weights_loaded = parameters_changed;
  owners()[net->layers].push_back({&owner, range});
  for (int i = range.begin; i < range.end; ++i) {
    layer& l = net->layers[i];
    functions_.push_back({l.forward, l.backward, l.update});
    l.forward = forward_wrapped;
    l.backward = backward_wrapped;
    l.update = nullptr;
  }
  if (const layer* first = first_with_weights(net, range)) {
    net->layers[first - net->layers].update = update_wrapped;
    update_owners()[first->weights] = &owner;
  }
  release_buffers();
}

WrappedLayers::~WrappedLayers() {
  auto& all = owners()[net_->layers];
  std::erase_if(all, [this](const Owner& owner) { return owner.layers.begin == range_.begin; });
  if (all.empty()) owners().erase(net_->layers);
  if (const layer* first = first_with_weights(net_, range_)) update_owners().erase(first->weights);
  for (int i = range_.begin; i < range_.end; ++i) {
    layer& l = net_->layers[i];
    const Functions& f = functions_[static_cast<std::size_t>(i - range_.begin)];
    l.forward = f.forward, l.backward = f.backward, l.update = f.update;
    const auto elements = static_cast<std::size_t>(l.outputs) * static_cast<std::size_t>(l.batch);
    make_again(l.output, elements);
    make_again(l.delta, elements);
    if (l.type == CONVOLUTIONAL) {
      if (l.batch_normalize) make_again(l.x, elements), make_again(l.x_norm, elements);
      make_again(l.weight_updates, static_cast<std::size_t>(l.nweights));
      make_again(l.bias_updates, static_cast<std::size_t>(l.n));
      if (l.batch_normalize) make_again(l.scale_updates, static_cast<std::size_t>(l.n));
    }
    if (l.type == MAXPOOL && !l.indexes) l.indexes = static_cast<int*>(std::calloc(elements, sizeof(int)));
  }
  share_with_dropout(net_);
}

void WrappedLayers::release_buffers() {
  for (int i = range_.begin; i < range_.end; ++i) {
    layer& l = net_->layers[i];
    const bool delivered = delivered_[static_cast<std::size_t>(i - range_.begin)];
    if (!delivered) release(l.output);
    if (!delivered || purpose_ == Purpose::kInference) release(l.delta);
    if (purpose_ == Purpose::kInference) release(l.weight_updates), release(l.bias_updates), release(l.scale_updates);
    release(l.x), release(l.x_norm);
    std::free(l.indexes);
    l.indexes = nullptr;
  }
  share_with_dropout(net_);
}

}  // namespace tessera::distributed
