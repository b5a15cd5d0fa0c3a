#include "darknet/upstream/adam.hpp"

#include <algorithm>
#include <cstdlib>

#include "base/check.hpp"
#include "darknet/upstream/weights_layout.hpp"
#include "optim/adam.hpp"

namespace tessera::darknet {
namespace {

// Upstream frees the layer, so by its allocator; it has made some of them smaller or not at all.
void make_moment(float*& moment, std::size_t count) {
  std::free(moment);
  moment = static_cast<float*>(std::calloc(count, sizeof(float)));
  TESSERA_CHECK(moment, "no memory for {} numbers of Adam", count);
}

}  // namespace

void enable_adam(network* net, bool amsgrad) {
  if (!net->adam) return;
  net->adam = amsgrad ? kAmsgrad : 1;
  for (int i = 0; i < net->n; ++i) {
    layer& l = net->layers[i];
    const std::vector<TrainedArray> arrays = trained_arrays(l);
    for (const TrainedArray& array : arrays) {
      make_moment(*array.first, array.count);
      make_moment(*array.second, amsgrad ? 2 * array.count : array.count);
    }
    if (!arrays.empty() && l.update) l.update = adam_step;
  }
}

void adam_step(layer l, update_args arguments) {
  base::ThreadPool pool(1);
  const optim::Adam adam{arguments.B1,    arguments.B2,    arguments.eps, arguments.learning_rate * l.learning_rate_scale,
                         arguments.decay, arguments.batch, arguments.t};
  for (const TrainedArray& array : trained_arrays(l)) {
    const auto span = [&](float* values) { return std::span(values, array.count); };
    const auto largest = arguments.adam == kAmsgrad ? span(*array.second + array.count) : std::span<float>();
    optim::update(adam, {span(array.values), span(array.updates), span(*array.first), span(*array.second), largest}, pool);
    std::fill_n(array.updates, array.count, 0.0f);
  }
}

}  // namespace tessera::darknet
