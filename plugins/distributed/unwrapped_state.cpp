#include "plugins/distributed/unwrapped_state.hpp"

#include <algorithm>

namespace tessera::distributed {

namespace {

struct Sizes {
  std::size_t weights = 0, channels = 0;
};

Sizes sizes(const layer& l) {
  const auto size = [](long long n) { return static_cast<std::size_t>(n); };
  switch (l.type) {
    case CONVOLUTIONAL:
    case DECONVOLUTIONAL:
      return {size(l.nweights), size(l.n)};
    case CONNECTED:
      return {size(l.outputs) * size(l.inputs), size(l.outputs)};
    case BATCHNORM:
      return {0, size(l.c)};
    case LOCAL:
      return {size(l.size) * size(l.size) * size(l.c) * size(l.n) * size(l.out_w) * size(l.out_h), size(l.outputs)};
    default:
      return {};
  }
}

}  // namespace

UnwrappedState::UnwrappedState(const network& net, LayerRange wrapped) : seen_(*net.seen) {
  for (int i = 0; i < net.n; ++i) {
    if (i >= wrapped.begin && i < wrapped.end) continue;
    const layer& l = net.layers[i];
    const Sizes s = sizes(l);
    const auto keep = [&](float* where, std::size_t count) {
      if (where && count > 0) kept_.push_back({where, std::vector<float>(where, where + count)});
    };
    keep(l.weights, s.weights), keep(l.weight_updates, s.weights);
    keep(l.biases, s.channels), keep(l.bias_updates, s.channels);
    keep(l.scales, s.channels), keep(l.scale_updates, s.channels);
    keep(l.rolling_mean, s.channels);
    keep(l.rolling_variance, s.channels);
  }
}

void UnwrappedState::restore(network* net) const {
  *net->seen = seen_;
  for (const Kept& kept : kept_) std::copy(kept.values.begin(), kept.values.end(), kept.where);
}

}  // namespace tessera::distributed
