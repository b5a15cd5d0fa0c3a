#include "darknet/upstream/weights_layout.hpp"

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

// Layers made of others keep them in this order.
std::vector<const layer*> parts(const layer& l) {
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

void append_momentum(const layer& l, std::vector<WeightBlock>& blocks) {
  const bool convolution = l.type == CONVOLUTIONAL || l.type == DECONVOLUTIONAL;
  if (!convolution && l.type != CONNECTED && l.type != LOCAL) return;
  const std::size_t outputs = elements(convolution ? l.n : l.outputs);
  std::size_t weights = elements(l.nweights);
  if (l.type == CONNECTED) weights = elements(l.outputs) * elements(l.inputs);
  if (l.type == LOCAL) weights = elements(l.size * l.size * l.c * l.n) * elements(l.out_w * l.out_h);
  const auto add = [&](float* values, std::size_t count) {
    if (values) blocks.push_back({values, count});
  };
  add(l.weight_updates, weights);
  add(l.bias_updates, outputs);
  if (l.batch_normalize) add(l.scale_updates, outputs);
  add(l.m, weights);
  add(l.v, weights);
  add(l.bias_m, outputs);
  add(l.bias_v, outputs);
  if (l.batch_normalize) {
    add(l.scale_m, outputs);
    add(l.scale_v, outputs);
  }
}

}  // namespace

std::vector<WeightBlock> weight_blocks(const layer& l, LayoutUse use) {
  std::vector<WeightBlock> blocks;
  if (use == LayoutUse::kSave ? l.dontsave : l.dontload) return blocks;
  append_layer(l, use, blocks);
  for (const layer* part : parts(l)) append_layer(*part, use, blocks);
  return blocks;
}

std::vector<WeightBlock> momentum_blocks(const layer& l) {
  std::vector<WeightBlock> blocks;
  append_momentum(l, blocks);
  for (const layer* part : parts(l)) append_momentum(*part, blocks);
  return blocks;
}

}  // namespace tessera::darknet
