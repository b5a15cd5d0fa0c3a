// [convolutional] with groups, dilation, stride_x, stride_y, shared weights, or an activation of plugins/layers/activations.hpp.
#include <cblas.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "plugins/layers/activations.hpp"
#include "plugins/layers/kinds.hpp"

extern "C" {
layer make_convolutional_layer(int batch, int h, int w, int c, int n, int groups, int size, int stride, int padding, ACTIVATION activation,
                               int batch_normalize, int binary, int xnor, int adam);
void update_convolutional_layer(layer l, update_args a);
void mean_cpu(float* x, int batch, int filters, int spatial, float* mean);
void variance_cpu(float* x, float* mean, int batch, int filters, int spatial, float* variance);
void backward_batchnorm_layer(layer l, network net);
void activate_array(float* x, int n, ACTIVATION a);
void gradient_array(const float* x, int n, ACTIVATION a, float* delta);
ACTIVATION get_activation(char* s);
}

namespace tessera::layers {
namespace {

struct Window {
  int size = 1, stride_x = 1, stride_y = 1, pad = 0, apart = 1;  // pad and apart in cells of the input

  int out(int in, int stride) const { return (in + 2 * pad - (apart * (size - 1) + 1)) / stride + 1; }
  // Columns are the input itself.
  bool plain() const { return size == 1 && stride_x == 1 && stride_y == 1 && pad == 0; }
};

// Calls move(cell of the map, cell of the columns) for every cell that both have; columns are [c][size][size][out_h][out_w].
template <typename Move>
void for_columns(const Window& window, int c, int h, int w, int out_h, int out_w, const Move& move) {
  long column = 0;
  for (int channel = 0; channel < c; ++channel)
    for (int ky = 0; ky < window.size; ++ky)
      for (int kx = 0; kx < window.size; ++kx)
        for (int y = 0; y < out_h; ++y) {
          const int from_y = y * window.stride_y - window.pad + ky * window.apart;
          for (int x = 0; x < out_w; ++x, ++column) {
            const int from_x = x * window.stride_x - window.pad + kx * window.apart;
            if (from_y >= 0 && from_y < h && from_x >= 0 && from_x < w)
              move((static_cast<long>(channel) * h + from_y) * w + from_x, column);
          }
        }
}

class ConvolutionLayer : public OwnLayer {
 public:
  ConvolutionLayer(const Window& window, std::string activation)
      : window_(window), activation_name_(std::move(activation)), activation_(own_activation(activation_name_)) {}

  std::string fill(graph::Layer& node) const override {
    node.pad = window_.pad, node.stride = window_.stride_y, node.stride_x = window_.stride_x, node.dilation = window_.apart;
    node.activation = activation_name_;
    node.adds_gradient = !stock_gradients_;
    return {};
  }

  void forward(const layer& l, const network& net) override {
    const Sizes s = sizes(l);
    for (int i = 0; i < l.batch * l.groups; ++i) {
      const float* columns = to_columns(l, net.input + i * s.in);
      multiply(false, false, s.filters, s.cells, s.taps, group_weights(l, i), s.taps, columns, s.cells, 0, l.output + i * s.out, s.cells);
    }
    if (l.batch_normalize)
      normalise(l, net.train, s.cells);
    else
      for (long i = 0; i < static_cast<long>(l.batch) * l.n; ++i)
        for (long cell = 0; cell < s.cells; ++cell) l.output[i * s.cells + cell] += l.biases[i % l.n];
    if (!activation_) return activate_array(l.output, static_cast<int>(elements(l)), l.activation);
    if (net.train) before_.assign(l.output, l.output + elements(l));
    for (long i = 0; i < elements(l); ++i) l.output[i] = kernels::activate(l.output[i], *activation_);
  }

  void backward(const layer& l, const network& net) override {
    const Sizes s = sizes(l);
    if (activation_)
      for (long i = 0; i < elements(l); ++i) l.delta[i] *= kernels::activation_slope_at(before_[static_cast<std::size_t>(i)], *activation_);
    else
      gradient_array(l.output, static_cast<int>(elements(l)), l.activation, l.delta);
    if (l.batch_normalize)
      backward_batchnorm_layer(l, net);
    else
      for (long i = 0; i < static_cast<long>(l.batch) * l.n; ++i)
        for (long cell = 0; cell < s.cells; ++cell) l.bias_updates[i % l.n] += l.delta[i * s.cells + cell];
    for (int i = 0; i < l.batch * l.groups; ++i) {
      const float* delta = l.delta + i * s.out;
      const float* columns = to_columns(l, net.input + i * s.in);
      multiply(false, true, s.filters, s.taps, s.cells, delta, s.cells, columns, s.cells, 1, group(l.weight_updates, l, i), s.taps);
      if (!net.delta) continue;
      float* in = net.delta + i * s.in;
      const bool overwrite = stock_gradients_ && l.size == 1;
      if (window_.plain()) {
        multiply(true, false, s.taps, s.cells, s.filters, group_weights(l, i), s.taps, delta, s.cells, overwrite ? 0 : 1, in, s.cells);
        continue;
      }
      if (overwrite) std::fill_n(in, s.in, 0.0f);
      columns_.resize(static_cast<std::size_t>(s.taps * s.cells));
      multiply(true, false, s.taps, s.cells, s.filters, group_weights(l, i), s.taps, delta, s.cells, 0, columns_.data(), s.cells);
      for_columns(window_, l.c / l.groups, l.h, l.w, l.out_h, l.out_w,
                  [&](long cell, long column) { in[cell] += columns_[static_cast<std::size_t>(column)]; });
    }
  }

  void update(const layer& l, const update_args& arguments) override { update_convolutional_layer(l, arguments); }

  void resize(layer& l, int w, int h, const network&) override {
    l.w = w, l.h = h;
    l.inputs = w * h * l.c;
    darknet::set_output(l, window_.out(w, window_.stride_x), window_.out(h, window_.stride_y));
    fit_normalization(l);
  }

  static void fit_normalization(layer& l) {
    if (!l.batch_normalize) return;
    const auto bytes = static_cast<std::size_t>(elements(l)) * sizeof(float);
    l.x = static_cast<float*>(std::realloc(l.x, bytes));
    l.x_norm = static_cast<float*>(std::realloc(l.x_norm, bytes));
  }

  void use_stock_gradients() override { stock_gradients_ = true; }

 private:
  // AlexeyAB's batch normalisation: upstream's, but for the place of the small constant.
  static void normalise(const layer& l, bool train, long cells) {
    constexpr float kEpsilon = 1e-5f, kKept = 0.99f;
    std::copy_n(l.output, elements(l), l.x);
    if (train) {
      mean_cpu(l.output, l.batch, l.n, static_cast<int>(cells), l.mean);
      variance_cpu(l.output, l.mean, l.batch, l.n, static_cast<int>(cells), l.variance);
    }
    for (int c = 0; train && c < l.n; ++c) {
      l.rolling_mean[c] = kKept * l.rolling_mean[c] + (1 - kKept) * l.mean[c];
      l.rolling_variance[c] = kKept * l.rolling_variance[c] + (1 - kKept) * l.variance[c];
    }
    const float *mean = train ? l.mean : l.rolling_mean, *variance = train ? l.variance : l.rolling_variance;
    for (long i = 0; i < static_cast<long>(l.batch) * l.n; ++i) {
      const long c = i % l.n;
      const float deviation = std::sqrt(variance[c] + kEpsilon);
      for (long at = i * cells; at < (i + 1) * cells; ++at) {
        l.x_norm[at] = (l.output[at] - mean[c]) / deviation;
        l.output[at] = l.x_norm[at] * l.scales[c] + l.biases[c];
      }
    }
  }

  // Of one group of one sample.
  struct Sizes {
    long filters, taps, cells, in, out;
  };
  Sizes sizes(const layer& l) const {
    const long cells = static_cast<long>(l.out_w) * l.out_h;
    return {l.n / l.groups, static_cast<long>(l.c / l.groups) * l.size * l.size, cells, static_cast<long>(l.c / l.groups) * l.h * l.w,
            l.n / l.groups * cells};
  }
  static float* group(float* weights, const layer& l, int i) { return weights + static_cast<long>(i % l.groups) * (l.nweights / l.groups); }
  static const float* group_weights(const layer& l, int i) { return group(l.weights, l, i); }

  const float* to_columns(const layer& l, const float* in) {
    if (window_.plain()) return in;
    const Sizes s = sizes(l);
    columns_.assign(static_cast<std::size_t>(s.taps * s.cells), 0);
    for_columns(window_, l.c / l.groups, l.h, l.w, l.out_h, l.out_w,
                [&](long cell, long column) { columns_[static_cast<std::size_t>(column)] = in[cell]; });
    return columns_.data();
  }

  static void multiply(bool transpose_a, bool transpose_b, long m, long n, long k, const float* a, long a_stride, const float* b,
                       long b_stride, float keep, float* c, long c_stride) {
    cblas_sgemm(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans, transpose_b ? CblasTrans : CblasNoTrans, static_cast<int>(m),
                static_cast<int>(n), static_cast<int>(k), 1, a, static_cast<int>(a_stride), b, static_cast<int>(b_stride), keep, c,
                static_cast<int>(c_stride));
  }

  Window window_;
  std::string activation_name_;
  std::optional<kernels::Activation> activation_;
  bool stock_gradients_ = false;
  std::vector<float> before_, columns_;  // activation's inputs of the last training pass; scratch
};

}  // namespace

layer make_convolution(const Making& making) {
  const cfg::CfgSection& s = making.section();
  const auto number = [&](const char* key, long fallback) { return static_cast<int>(s.integer(key, fallback)); };
  Window window;
  window.size = number("size", 1);
  window.apart = window.size == 1 ? 1 : number("dilation", 1);
  window.stride_x = number("stride_x", s.integer("stride", 1));
  window.stride_y = number("stride_y", s.integer("stride", 1));
  const int pad = number("pad", 0) ? window.size / 2 : number("padding", 0);
  window.pad = pad * window.apart;
  std::string name = s.text("activation", "logistic");
  const std::string given = name;
  const cfg::LayerShape in = making.input();
  layer l = make_convolutional_layer(making.batch, static_cast<int>(in.h), static_cast<int>(in.w), static_cast<int>(in.c),
                                     number("filters", 1), number("groups", 1), window.size, number("stride", 1), pad,
                                     own_activation(name) ? LINEAR : get_activation(name.data()), number("batch_normalize", 0), 0, 0, 0);
  l.workspace_size = 0;
  darknet::set_output(l, static_cast<int>(making.shape().w), static_cast<int>(making.shape().h));
  ConvolutionLayer::fit_normalization(l);
  darknet::install(l, std::make_unique<ConvolutionLayer>(window, given));
  return l;
}

}  // namespace tessera::layers
