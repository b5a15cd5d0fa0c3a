// [shortcut] with several sources, or with weights: out = f(sum of u_i in_i). The weights of an input are one number
// (per_feature) or one per channel; u are the weights, normalised by relu or softmax over the inputs. The normalisation is not
// differentiated, as in AlexeyAB's Darknet.
#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "plugins/layers/activations.hpp"
#include "plugins/layers/kinds.hpp"

extern "C" {
void activate_array(float* x, int n, ACTIVATION a);
void gradient_array(const float* x, int n, ACTIVATION a, float* delta);
ACTIVATION get_activation(char* s);
}

namespace tessera::layers {
namespace {

constexpr float kSmallestSum = 1e-4f;

enum class Weights { kNone, kPerInput, kPerChannel };

class Shortcut : public OwnLayer {
 public:
  Shortcut(std::vector<int> sources, Weights weights, bool softmax, int channels, std::string activation)
      : sources_(std::move(sources)),
        kind_(weights),
        softmax_(softmax),
        activation_name_(std::move(activation)),
        activation_(own_activation(activation_name_)) {
    per_input_ = kind_ == Weights::kPerChannel ? channels : 1;
    if (kind_ == Weights::kNone) return;
    const std::size_t count = (sources_.size() + 1) * static_cast<std::size_t>(per_input_);
    weights_.assign(count, 1);
    momentum_.assign(count, 0);
  }

  void forward(const layer& l, const network& net) override {
    normalise();
    std::fill_n(l.output, elements(l), 0.0f);
    for_inputs(l, net, [&](std::size_t input, int channel, long here, long there, long cells, const float* values, float*) {
      const float weight = used(input, channel);
      for (long i = 0; i < cells; ++i) l.output[here + i] += weight * values[there + i];
    });
    if (!activation_) return activate_array(l.output, static_cast<int>(elements(l)), l.activation);
    if (net.train) before_.assign(l.output, l.output + elements(l));
    for (long i = 0; i < elements(l); ++i) l.output[i] = kernels::activate(l.output[i], *activation_);
  }

  void backward(const layer& l, const network& net) override {
    if (activation_)
      for (long i = 0; i < elements(l); ++i) l.delta[i] *= kernels::activation_slope_at(before_[static_cast<std::size_t>(i)], *activation_);
    else
      gradient_array(l.output, static_cast<int>(elements(l)), l.activation, l.delta);
    for_inputs(l, net, [&](std::size_t input, int channel, long here, long there, long cells, const float* values, float* deltas) {
      const float weight = used(input, channel);
      float sum = 0;
      for (long i = 0; i < cells; ++i) {
        if (deltas) deltas[there + i] += weight * l.delta[here + i];
        sum += l.delta[here + i] * values[there + i];
      }
      if (kind_ != Weights::kNone) momentum_[place(input, channel)] += sum;
    });
  }

  void update(const layer& l, const update_args& a) override {
    const float rate = a.learning_rate * l.learning_rate_scale / static_cast<float>(a.batch);
    for (std::size_t i = 0; i < weights_.size(); ++i) {
      momentum_[i] -= a.decay * static_cast<float>(a.batch) * weights_[i];
      weights_[i] += rate * momentum_[i];
      momentum_[i] *= a.momentum;
    }
  }

  void resize(layer& l, int w, int h, const network&) override {
    l.w = w, l.h = h;
    l.inputs = w * h * l.c;
    darknet::set_output(l, w, h);
  }
  std::vector<int> inputs(int index) const override {
    std::vector<int> all{index - 1};
    all.insert(all.end(), sources_.begin(), sources_.end());
    return all;
  }
  std::string fill(graph::Layer& node) const override {
    if (kind_ != Weights::kNone) return "weights_type is computed as a whole";
    node.activation = activation_name_;
    node.alpha = node.beta = 1;
    return {};
  }
  std::vector<darknet::StoredBlock> weights(const layer&) override { return blocks(weights_); }
  std::vector<darknet::StoredBlock> momentum(const layer&) override { return blocks(momentum_); }

 private:
  static std::vector<darknet::StoredBlock> blocks(std::vector<float>& values) {
    return values.empty() ? std::vector<darknet::StoredBlock>{} : std::vector<darknet::StoredBlock>{{values.data(), values.size()}};
  }
  std::size_t place(std::size_t input, int channel) const {
    return input * static_cast<std::size_t>(per_input_) + (kind_ == Weights::kPerChannel ? static_cast<std::size_t>(channel) : 0);
  }
  float used(std::size_t input, int channel) const { return kind_ == Weights::kNone ? 1 : normalised_[place(input, channel)]; }

  void normalise() {
    normalised_ = weights_;
    const std::size_t inputs = sources_.size() + 1, step = static_cast<std::size_t>(per_input_);
    for (std::size_t channel = 0; channel < step && !weights_.empty(); ++channel) {
      float most = weights_[channel], sum = kSmallestSum;
      for (std::size_t i = 0; i < inputs; ++i) most = std::max(most, weights_[i * step + channel]);
      for (std::size_t i = 0; i < inputs; ++i) {
        float& u = normalised_[i * step + channel];
        u = softmax_ ? std::exp(u - most) : std::max(u, 0.0f);
        sum += u;
      }
      for (std::size_t i = 0; i < inputs; ++i) normalised_[i * step + channel] /= sum;
    }
  }

  // Calls take(input, channel, place in this layer, place in the input, cells, input's output, input's delta).
  template <typename Take>
  void for_inputs(const layer& l, const network& net, const Take& take) const {
    const long cells = static_cast<long>(l.out_w) * l.out_h;
    for (std::size_t input = 0; input <= sources_.size(); ++input) {
      const layer* from = input == 0 ? nullptr : &net.layers[sources_[input - 1]];
      const int channels = from ? std::min(from->out_c, l.out_c) : l.out_c;
      const long outputs = from ? from->outputs : l.outputs;
      for (int b = 0; b < l.batch; ++b)
        for (int channel = 0; channel < channels; ++channel)
          take(input, channel, static_cast<long>(b) * l.outputs + channel * cells, static_cast<long>(b) * outputs + channel * cells, cells,
               from ? from->output : net.input, from ? from->delta : net.delta);
    }
  }

  std::vector<int> sources_;
  Weights kind_;
  bool softmax_;
  std::string activation_name_;
  std::optional<kernels::Activation> activation_;
  int per_input_ = 1;
  std::vector<float> weights_, momentum_, normalised_, before_;
};

}  // namespace

layer make_shortcut(const Making& making) {
  const cfg::CfgSection& s = making.section();
  std::string activation = s.text("activation", "linear");
  const std::string type = s.text("weights_type", "none");
  const Weights weights = type == "none" ? Weights::kNone : type == "per_channel" ? Weights::kPerChannel : Weights::kPerInput;
  const std::string given = activation;
  layer l = darknet::blank_layer(making, SHORTCUT);
  l.activation = own_activation(activation) ? LINEAR : get_activation(activation.data());
  const std::vector<int> sources = making.sources("from");
  l.index = sources.front();
  darknet::install(l, std::make_unique<Shortcut>(sources, weights, s.text("weights_normalization", "") == "softmax", l.out_c, given));
  return l;
}

}  // namespace tessera::layers
