// [scale_channels] and [sam]: the layer before times another one. out[i] = in[place(i)] * from[i].
#include "plugins/layers/kinds.hpp"

extern "C" {
void activate_array(float* x, int n, ACTIVATION a);
void gradient_array(const float* x, int n, ACTIVATION a, float* delta);
ACTIVATION get_activation(char* s);
}

namespace tessera::layers {
namespace {

enum class Spread { kNone, kOverCells, kOverChannels };

class Product : public OwnLayer {
 public:
  Product(int source, Spread spread) : source_(source), spread_(spread) {}

  void forward(const layer& l, const network& net) override {
    const float* from = net.layers[source_].output;
    for (long i = 0; i < elements(l); ++i) l.output[i] = net.input[place(l, i)] * from[i];
    activate_array(l.output, static_cast<int>(elements(l)), l.activation);
  }
  void backward(const layer& l, const network& net) override {
    gradient_array(l.output, static_cast<int>(elements(l)), l.activation, l.delta);
    const layer& from = net.layers[source_];
    for (long i = 0; i < elements(l); ++i) {
      if (net.delta) net.delta[place(l, i)] += l.delta[i] * from.output[i];
      if (from.delta) from.delta[i] += l.delta[i] * net.input[place(l, i)];
    }
  }
  void resize(layer& l, int w, int h, const network& net) override {
    l.w = w, l.h = h;
    l.inputs = w * h * l.c;
    darknet::set_output(l, net.layers[source_].out_w, net.layers[source_].out_h);
  }
  std::vector<int> inputs(int index) const override { return {index - 1, source_}; }

 private:
  long place(const layer& l, long i) const {
    const long cells = static_cast<long>(l.out_w) * l.out_h;
    return spread_ == Spread::kNone ? i : spread_ == Spread::kOverCells ? i / cells : i / l.outputs * cells + i % cells;
  }

  int source_;
  Spread spread_;
};

layer make_product(const Making& making, Spread spread) {
  std::string activation = making.section().text("activation", "linear");
  layer l = darknet::blank_layer(making, BLANK);
  l.activation = get_activation(activation.data());
  darknet::install(l, std::make_unique<Product>(making.sources("from").front(), spread));
  return l;
}

}  // namespace

layer make_sam(const Making& making) { return make_product(making, Spread::kNone); }
layer make_scale_channels(const Making& making) {
  return make_product(making, making.section().integer("scale_wh", 0) ? Spread::kOverChannels : Spread::kOverCells);
}

}  // namespace tessera::layers
