#include "plugins/layers/activations.hpp"

namespace tessera::layers {

std::optional<kernels::Activation> own_activation(std::string_view name) {
  using kernels::Activation;
  for (const Activation activation : {Activation::kMish, Activation::kHardMish, Activation::kSwish, Activation::kRelu6})
    if (kernels::to_string(activation) == name) return activation;
  return {};
}

}  // namespace tessera::layers
