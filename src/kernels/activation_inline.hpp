// The activations as inline functions, so that loops over cells are compiled once per activation. Internal.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.hpp"
#include "kernels/activation.hpp"

namespace tessera::kernels {

// tanh(ln(1 + e)) and e / (1 + e), of e = e^x: one exponential for both. Beyond kFar they are 1.
inline constexpr float kFar = 20;
inline float tanh_softplus(float e) { return e * (e + 2) / (e * (e + 2) + 2); }
inline float sigmoid_of(float e) { return e / (1 + e); }

// Whether its slope follows from its input only.
constexpr bool needs_input(Activation a) { return a == Activation::kMish || a == Activation::kHardMish || a == Activation::kSwish; }

// The activations of real networks (leaky, relu, linear, ramp, relie) stay in float and vectorise; the others follow
// Darknet's double arithmetic.
template <Activation A>
inline float activate_as(float x) {
  if constexpr (A == Activation::kLinear) return x;
  if constexpr (A == Activation::kLogistic) return static_cast<float>(1. / (1. + std::exp(-static_cast<double>(x))));
  if constexpr (A == Activation::kLoggy) return static_cast<float>(2. / (1. + std::exp(-static_cast<double>(x))) - 1);
  if constexpr (A == Activation::kRelu) return x > 0 ? x : 0 * x;  // 0 * x keeps NaN
  if constexpr (A == Activation::kElu) return x >= 0 ? x : static_cast<float>(std::exp(static_cast<double>(x)) - 1);
  if constexpr (A == Activation::kSelu)
    return static_cast<float>(x >= 0 ? 1.0507 * x : 1.0507 * 1.6732 * (std::exp(static_cast<double>(x)) - 1));
  if constexpr (A == Activation::kRelie) return x > 0 ? x : .01f * x;
  if constexpr (A == Activation::kRamp) return x > 0 ? x + .1f * x : .1f * x;
  if constexpr (A == Activation::kLeaky) return x > 0 ? x : .1f * x;
  if constexpr (A == Activation::kTanh) {
    // Darknet's quotient overflows to NaN for large x; the same value without that.
    return static_cast<float>(std::tanh(static_cast<double>(x)));
  }
  if constexpr (A == Activation::kPlse) {
    if (x < -4) return static_cast<float>(.01 * (x + 4));
    if (x > 4) return static_cast<float>(.01 * (x - 4) + 1);
    return static_cast<float>(.125 * x + .5);
  }
  if constexpr (A == Activation::kStair) {
    const double floor = std::floor(static_cast<double>(x));
    const double half = std::floor(x / 2.);
    return static_cast<float>(std::fmod(floor, 2.) == 0 ? half : (x - floor) + half);
  }
  if constexpr (A == Activation::kHardtan) return x < -1 ? -1.f : x > 1 ? 1.f : x;
  if constexpr (A == Activation::kMish) return x > kFar ? x : x * tanh_softplus(std::exp(x));
  if constexpr (A == Activation::kHardMish) return x > 0 ? x : x > -2 ? x * x / 2 + x : 0 * x;
  if constexpr (A == Activation::kSwish) return x / (1 + std::exp(-x));
  if constexpr (A == Activation::kRelu6) return x > 0 ? std::min(x, 6.f) : 0 * x;
  if constexpr (A == Activation::kLhtan) {
    if (x < 0) return static_cast<float>(.001 * x);
    if (x > 1) return static_cast<float>(.001 * (x - 1) + 1);
    return x;
  }
}

// Darknet's gradient(y).
template <Activation A>
inline float slope_as(float y) {
  if constexpr (needs_input(A)) return std::numeric_limits<float>::quiet_NaN();
  if constexpr (A == Activation::kRelu6) return y > 0 && y < 6 ? 1.f : 0.f;
  if constexpr (A == Activation::kLinear) return 1;
  if constexpr (A == Activation::kLogistic) return (1 - y) * y;
  if constexpr (A == Activation::kLoggy) {
    const float half = static_cast<float>((y + 1.) / 2.);
    return 2 * (1 - half) * half;
  }
  if constexpr (A == Activation::kRelu) return y > 0 ? 1.f : 0.f;
  if constexpr (A == Activation::kElu) return y >= 0 ? 1.f : y + 1;
  if constexpr (A == Activation::kSelu) return static_cast<float>(y >= 0 ? 1.0507 : y + 1.0507 * 1.6732);
  if constexpr (A == Activation::kRelie) return y > 0 ? 1.f : .01f;
  if constexpr (A == Activation::kRamp) return y > 0 ? 1.1f : .1f;
  if constexpr (A == Activation::kLeaky) return y > 0 ? 1.f : .1f;
  if constexpr (A == Activation::kTanh) return 1 - y * y;
  if constexpr (A == Activation::kPlse) return y < 0 || y > 1 ? .01f : .125f;
  if constexpr (A == Activation::kStair) return std::floor(y) == y ? 0.f : 1.f;
  if constexpr (A == Activation::kHardtan) return y > -1 && y < 1 ? 1.f : 0.f;
  if constexpr (A == Activation::kLhtan) return y > 0 && y < 1 ? 1.f : .001f;
}

// Of the input x, whatever the activation.
template <Activation A>
inline float slope_at(float x) {
  if constexpr (A == Activation::kMish) {
    if (x > kFar) return 1;
    const float e = std::exp(x), t = tanh_softplus(e);
    return t + x * (1 - t * t) * sigmoid_of(e);
  } else if constexpr (A == Activation::kHardMish) {
    return x > 0 ? 1.f : x > -2 ? x + 1 : 0.f;
  } else if constexpr (A == Activation::kSwish) {
    const float s = 1 / (1 + std::exp(-x));
    return x * s + s * (1 - x * s);
  } else {
    return slope_as<A>(activate_as<A>(x));
  }
}

// Calls body.template operator()<A>() for the activation given at run time.
template <typename Body>
decltype(auto) with_activation(Activation activation, Body&& body) {
  switch (activation) {
    case Activation::kLogistic:
      return body.template operator()<Activation::kLogistic>();
    case Activation::kLoggy:
      return body.template operator()<Activation::kLoggy>();
    case Activation::kRelu:
      return body.template operator()<Activation::kRelu>();
    case Activation::kElu:
      return body.template operator()<Activation::kElu>();
    case Activation::kRelie:
      return body.template operator()<Activation::kRelie>();
    case Activation::kPlse:
      return body.template operator()<Activation::kPlse>();
    case Activation::kHardtan:
      return body.template operator()<Activation::kHardtan>();
    case Activation::kLhtan:
      return body.template operator()<Activation::kLhtan>();
    case Activation::kLinear:
      return body.template operator()<Activation::kLinear>();
    case Activation::kRamp:
      return body.template operator()<Activation::kRamp>();
    case Activation::kLeaky:
      return body.template operator()<Activation::kLeaky>();
    case Activation::kTanh:
      return body.template operator()<Activation::kTanh>();
    case Activation::kStair:
      return body.template operator()<Activation::kStair>();
    case Activation::kSelu:
      return body.template operator()<Activation::kSelu>();
    case Activation::kMish:
      return body.template operator()<Activation::kMish>();
    case Activation::kHardMish:
      return body.template operator()<Activation::kHardMish>();
    case Activation::kSwish:
      return body.template operator()<Activation::kSwish>();
    case Activation::kRelu6:
      return body.template operator()<Activation::kRelu6>();
  }
  base::fail_check(__FILE__, __LINE__, "known activation", fmt::format("activation={}", static_cast<int>(activation)));
}

}  // namespace tessera::kernels
