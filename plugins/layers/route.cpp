// [route] with groups: of every listed layer the channels [c * group_id / groups, c * (group_id + 1) / groups).
#include <algorithm>
#include <cstdlib>

#include "plugins/layers/kinds.hpp"

namespace tessera::layers {
namespace {

class Route : public OwnLayer {
 public:
  Route(std::vector<int> sources, int groups, int group) : sources_(std::move(sources)), groups_(groups), group_(group) {}

  void forward(const layer& l, const network& net) override {
    for_pieces(l, net,
               [](const layer& from, long at, float* here, const float*, long count) { std::copy_n(from.output + at, count, here); });
  }
  void backward(const layer& l, const network& net) override {
    for_pieces(l, net, [](const layer& from, long at, float*, const float* delta, long count) {
      for (long i = 0; i < count; ++i) from.delta[at + i] += delta[i];
    });
  }
  void resize(layer& l, int, int, const network& net) override {
    const layer& first = net.layers[sources_.front()];
    for (std::size_t i = 0; i < sources_.size(); ++i) l.input_sizes[i] = net.layers[sources_[i]].outputs;
    l.inputs = l.out_c * first.out_w * first.out_h;
    darknet::set_output(l, first.out_w, first.out_h);
  }
  std::vector<int> inputs(int) const override { return sources_; }
  std::string fill(graph::Layer& node) const override {
    node.groups = groups_, node.group = group_;
    return {};
  }

 private:
  template <typename Take>
  void for_pieces(const layer& l, const network& net, const Take& take) const {
    for (int b = 0; b < l.batch; ++b) {
      long here = static_cast<long>(b) * l.outputs;
      for (const int source : sources_) {
        const layer& from = net.layers[source];
        const long count = from.outputs / groups_;
        take(from, static_cast<long>(b) * from.outputs + count * group_, l.output + here, l.delta + here, count);
        here += count;
      }
    }
  }

  std::vector<int> sources_;
  int groups_, group_;
};

}  // namespace

layer make_route(const Making& making) {
  const cfg::CfgSection& s = making.section();
  const std::vector<int> sources = making.sources("layers");
  layer l = darknet::blank_layer(making, ROUTE);
  l.n = static_cast<int>(sources.size());
  l.inputs = l.outputs;
  l.input_layers = static_cast<int*>(std::calloc(sources.size(), sizeof(int)));
  l.input_sizes = static_cast<int*>(std::calloc(sources.size(), sizeof(int)));
  for (std::size_t i = 0; i < sources.size(); ++i) {
    l.input_layers[i] = sources[i];
    l.input_sizes[i] = static_cast<int>(making.cfg.layers[static_cast<std::size_t>(sources[i])].outputs);
  }
  l.groups = static_cast<int>(s.integer("groups", 1));
  darknet::install(l, std::make_unique<Route>(sources, l.groups, static_cast<int>(s.integer("group_id", 0))));
  return l;
}

}  // namespace tessera::layers
