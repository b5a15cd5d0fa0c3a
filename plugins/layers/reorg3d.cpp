// [reorg3d]: space to depth. out[k, y, x] = in[k mod c, y s + k / c / s, x s + k / c mod s], k < c s s.
#include "plugins/layers/kinds.hpp"

namespace tessera::layers {
namespace {

class Reorg3d : public OwnLayer {
 public:
  explicit Reorg3d(int stride) : stride_(stride) {}

  void forward(const layer& l, const network& net) override {
    for_cells(l, [&](long in, long out) { l.output[out] = net.input[in]; });
  }
  void backward(const layer& l, const network& net) override {
    if (net.delta) for_cells(l, [&](long in, long out) { net.delta[in] += l.delta[out]; });
  }
  void resize(layer& l, int w, int h, const network&) override {
    l.w = w, l.h = h;
    l.inputs = w * h * l.c;
    darknet::set_output(l, w / stride_, h / stride_);
  }

 private:
  template <typename Move>
  void for_cells(const layer& l, const Move& move) const {
    long out = 0;
    for (int b = 0; b < l.batch; ++b)
      for (int k = 0; k < l.out_c; ++k)
        for (int y = 0; y < l.out_h; ++y)
          for (int x = 0; x < l.out_w; ++x, ++out) {
            const long in_y = static_cast<long>(y) * stride_ + k / l.c / stride_, in_x = static_cast<long>(x) * stride_ + k / l.c % stride_;
            move(((static_cast<long>(b) * l.c + k % l.c) * l.h + in_y) * l.w + in_x, out);
          }
  }

  int stride_;
};

}  // namespace

layer make_reorg3d(const Making& making) {
  layer l = darknet::blank_layer(making, BLANK);
  l.stride = static_cast<int>(making.section().integer("stride", 1));
  darknet::install(l, std::make_unique<Reorg3d>(l.stride));
  return l;
}

}  // namespace tessera::layers
