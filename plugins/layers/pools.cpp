// [maxpool] with stride_x, stride_y, or over channels (maxpool_depth); [avgpool], which upstream cannot resize.
#include <limits>

#include "plugins/layers/kinds.hpp"

namespace tessera::layers {
namespace {

// Remembers which input cell each output is.
class Maxpool : public OwnLayer {
 public:
  void backward(const layer& l, const network& net) override {
    if (!net.delta) return;
    for (long i = 0; i < elements(l); ++i)
      if (chosen_[static_cast<std::size_t>(i)] >= 0) net.delta[chosen_[static_cast<std::size_t>(i)]] += l.delta[i];
  }

 protected:
  // The largest of the cells that `each` offers becomes output `i`.
  template <typename Each>
  void choose(const layer& l, const network& net, long i, const Each& each) {
    long best = -1;
    float most = -std::numeric_limits<float>::max();
    each([&](long cell) {
      if (net.input[cell] > most) most = net.input[cell], best = cell;
    });
    l.output[i] = most;
    chosen_[static_cast<std::size_t>(i)] = best;
  }
  std::vector<long> chosen_;
};

class WindowMaxpool : public Maxpool {
 public:
  WindowMaxpool(int stride_x, int stride_y) : stride_x_(stride_x), stride_y_(stride_y) {}

  std::string fill(graph::Layer& node) const override {
    node.stride = stride_y_, node.stride_x = stride_x_;
    return {};
  }

  void forward(const layer& l, const network& net) override {
    chosen_.resize(static_cast<std::size_t>(elements(l)));
    long i = 0;
    for (long plane = 0; plane < static_cast<long>(l.batch) * l.c; ++plane)
      for (int y = 0; y < l.out_h; ++y)
        for (int x = 0; x < l.out_w; ++x, ++i)
          choose(l, net, i, [&](const auto& offer) {
            for (int ky = 0; ky < l.size; ++ky)
              for (int kx = 0; kx < l.size; ++kx) {
                const int from_y = y * stride_y_ - l.pad / 2 + ky, from_x = x * stride_x_ - l.pad / 2 + kx;
                if (from_y >= 0 && from_y < l.h && from_x >= 0 && from_x < l.w) offer((plane * l.h + from_y) * l.w + from_x);
              }
          });
  }
  void resize(layer& l, int w, int h, const network&) override {
    l.w = w, l.h = h;
    l.inputs = w * h * l.c;
    darknet::set_output(l, (w + l.pad - l.size) / stride_x_ + 1, (h + l.pad - l.size) / stride_y_ + 1);
  }

 private:
  int stride_x_, stride_y_;
};

// Output channel q is the largest of the input channels k with k mod out_channels = q.
class DepthMaxpool : public Maxpool {
 public:
  void forward(const layer& l, const network& net) override {
    chosen_.resize(static_cast<std::size_t>(elements(l)));
    const long cells = static_cast<long>(l.w) * l.h;
    long i = 0;
    for (int b = 0; b < l.batch; ++b)
      for (int q = 0; q < l.out_c; ++q)
        for (long cell = 0; cell < cells; ++cell, ++i)
          choose(l, net, i, [&](const auto& offer) {
            for (int k = q; k < l.c; k += l.out_c) offer((static_cast<long>(b) * l.c + k) * cells + cell);
          });
  }
  void resize(layer& l, int w, int h, const network&) override {
    l.w = w, l.h = h;
    l.inputs = w * h * l.c;
    darknet::set_output(l, w, h);
  }
};

class Avgpool : public OwnLayer {
 public:
  void forward(const layer& l, const network& net) override {
    const long cells = static_cast<long>(l.w) * l.h;
    for (long i = 0; i < elements(l); ++i) {
      float sum = 0;
      for (long cell = 0; cell < cells; ++cell) sum += net.input[i * cells + cell];
      l.output[i] = sum / static_cast<float>(cells);
    }
  }
  void backward(const layer& l, const network& net) override {
    const long cells = static_cast<long>(l.w) * l.h;
    for (long i = 0; net.delta && i < elements(l); ++i)
      for (long cell = 0; cell < cells; ++cell) net.delta[i * cells + cell] += l.delta[i] / static_cast<float>(cells);
  }
  void resize(layer& l, int w, int h, const network&) override {
    l.w = w, l.h = h;
    l.inputs = w * h * l.c;
  }
};

}  // namespace

layer make_maxpool(const Making& making) {
  const cfg::CfgSection& s = making.section();
  layer l = darknet::blank_layer(making, MAXPOOL);
  l.stride = static_cast<int>(s.integer("stride", 1));
  l.size = static_cast<int>(s.integer("size", l.stride));
  l.pad = static_cast<int>(s.integer("padding", l.size - 1));
  if (s.integer("maxpool_depth", 0))
    darknet::install(l, std::make_unique<DepthMaxpool>());
  else
    darknet::install(l, std::make_unique<WindowMaxpool>(static_cast<int>(s.integer("stride_x", l.stride)),
                                                        static_cast<int>(s.integer("stride_y", l.stride))));
  return l;
}

layer make_avgpool(const Making& making) {
  layer l = darknet::blank_layer(making, AVGPOOL);
  darknet::install(l, std::make_unique<Avgpool>());
  return l;
}

}  // namespace tessera::layers
