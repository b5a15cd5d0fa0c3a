#include "plugins/layers/activations.hpp"

#include <algorithm>
#include <cmath>

namespace tessera::layers {
namespace {

constexpr float kFar = 20;  // beyond it softplus is x, or e^x

float softplus(float x) { return x > kFar ? x : x < -kFar ? std::exp(x) : std::log1p(std::exp(x)); }
float logistic(float x) { return 1 / (1 + std::exp(-x)); }

}  // namespace

std::optional<OwnActivation> own_activation(std::string_view name) {
  if (name == "mish") return OwnActivation::kMish;
  if (name == "hard_mish") return OwnActivation::kHardMish;
  if (name == "swish") return OwnActivation::kSwish;
  if (name == "relu6") return OwnActivation::kRelu6;
  return {};
}

float activate(float x, OwnActivation activation) {
  switch (activation) {
    case OwnActivation::kMish:
      return x * std::tanh(softplus(x));
    case OwnActivation::kHardMish:
      return x > 0 ? x : x > -2 ? x * x / 2 + x : 0;
    case OwnActivation::kSwish:
      return x * logistic(x);
    case OwnActivation::kRelu6:
      return std::clamp(x, 0.0f, 6.0f);
  }
  return 0;
}

float slope(float x, OwnActivation activation) {
  switch (activation) {
    case OwnActivation::kMish: {
      const float s = softplus(x), t = std::tanh(s);
      return t + x * (1 - t * t) * -std::expm1(-s);
    }
    case OwnActivation::kHardMish:
      return x > 0 ? 1 : x > -2 ? x + 1 : 0;
    case OwnActivation::kSwish: {
      const float s = logistic(x);
      return x * s + s * (1 - x * s);
    }
    case OwnActivation::kRelu6:
      return x > 0 && x < 6 ? 1 : 0;
  }
  return 0;
}

}  // namespace tessera::layers
