#include "darknet/upstream/weights_layout.hpp"

#include "darknet/upstream/adam.hpp"
#include "darknet/upstream/own_layer.hpp"

namespace tessera::darknet {
namespace {

std::size_t elements(int count) { return static_cast<std::size_t>(count); }

void append_normalization(const layer& l, int count, std::vector<WeightBlock>& blocks) {
  blocks.push_back({l.scales, elements(count)});
  blocks.push_back({l.rolling_mean, elements(count)});
  blocks.push_back({l.rolling_variance, elements(count)});
}

void append_convolutional(const layer& l, LayoutUse use, std::vector<WeightBlock>& blocks) {
  const bool load = use != LayoutUse::kSave;
  const int filters = load && l.numload ? l.numload : l.n;
  const std::size_t per_filter = elements(l.nweights / l.n);
  blocks.push_back({l.biases, elements(filters)});
  if (l.batch_normalize && !(load && l.dontloadscales)) append_normalization(l, filters, blocks);
  blocks.push_back({l.weights, elements(filters) * per_filter, load && l.flipped ? elements(l.c * l.size * l.size) : 0});
}

void append_connected(const layer& l, LayoutUse use, std::vector<WeightBlock>& blocks) {
  blocks.push_back({l.biases, elements(l.outputs)});
  blocks.push_back({l.weights, elements(l.outputs) * elements(l.inputs), use == LayoutUse::kLoadTransposed ? elements(l.inputs) : 0});
  if (l.batch_normalize && !(use != LayoutUse::kSave && l.dontloadscales)) append_normalization(l, l.outputs, blocks);
}

void append_own(const layer& l, std::vector<StoredBlock> (OwnLayer::*get)(const layer&), std::vector<WeightBlock>& blocks) {
  if (OwnLayer* own = own_layer(l))
    for (const StoredBlock& block : (own->*get)(l)) blocks.push_back({block.values, block.count});
}

// Layers made of others keep them in this order.
std::vector<layer*> parts(const layer& l) {
  switch (l.type) {
    case RNN:
    case CRNN:
      return {l.input_layer, l.self_layer, l.output_layer};
    case LSTM:
      return {l.wi, l.wf, l.wo, l.wg, l.ui, l.uf, l.uo, l.ug};
    case GRU:
      return {l.wz, l.wr, l.wh, l.uz, l.ur, l.uh};
    default:
      return {};
  }
}

void append_layer(const layer& l, LayoutUse use, std::vector<WeightBlock>& blocks) {
  if (l.type == CONVOLUTIONAL || l.type == DECONVOLUTIONAL) append_convolutional(l, use, blocks);
  if (l.type == CONNECTED) append_connected(l, use, blocks);
  if (l.type == BATCHNORM) append_normalization(l, l.c, blocks);
  if (l.type == LOCAL) {
    blocks.push_back({l.biases, elements(l.outputs)});
    blocks.push_back({l.weights, elements(l.size * l.size * l.c * l.n) * elements(l.out_w * l.out_h)});
  }
}

void append_trained(layer& l, std::vector<TrainedArray>& arrays) {
  const bool convolution = l.type == CONVOLUTIONAL || l.type == DECONVOLUTIONAL;
  if (!convolution && l.type != CONNECTED && l.type != LOCAL) return;
  const std::size_t outputs = elements(convolution ? l.n : l.outputs);
  std::size_t weights = elements(l.nweights);
  if (l.type == CONNECTED) weights = elements(l.outputs) * elements(l.inputs);
  if (l.type == LOCAL) weights = elements(l.size * l.size * l.c * l.n) * elements(l.out_w * l.out_h);
  arrays.push_back({l.weights, l.weight_updates, &l.m, &l.v, weights});
  arrays.push_back({l.biases, l.bias_updates, &l.bias_m, &l.bias_v, outputs});
  if (l.batch_normalize) arrays.push_back({l.scales, l.scale_updates, &l.scale_m, &l.scale_v, outputs});
}

}  // namespace

std::vector<WeightBlock> weight_blocks(const layer& l, LayoutUse use) {
  std::vector<WeightBlock> blocks;
  if (use == LayoutUse::kSave ? l.dontsave : l.dontload) return blocks;
  append_layer(l, use, blocks);
  for (const layer* part : parts(l)) append_layer(*part, use, blocks);
  append_own(l, &OwnLayer::weights, blocks);
  return blocks;
}

std::vector<TrainedArray> trained_arrays(layer& l) {
  std::vector<TrainedArray> arrays;
  append_trained(l, arrays);
  for (layer* part : parts(l)) append_trained(*part, arrays);
  return arrays;
}

std::vector<WeightBlock> momentum_blocks(const network& net, const layer& l) {
  std::vector<WeightBlock> blocks;
  const auto add = [&](float* values, std::size_t count) {
    if (values) blocks.push_back({values, count});
  };
  layer copy = l;
  const std::vector<TrainedArray> arrays = trained_arrays(copy);
  for (const TrainedArray& array : arrays) add(array.updates, array.count);
  for (const TrainedArray& array : arrays) {
    add(*array.first, array.count);
    add(*array.second, net.adam == kAmsgrad ? 2 * array.count : array.count);
  }
  append_own(l, &OwnLayer::momentum, blocks);
  return blocks;
}

}  // namespace tessera::darknet
