// Activations of Darknet's CPU path (src/activations.h), with its constants, and those of AlexeyAB's dialect: mish
// x tanh(ln(1 + e^x)), swish x / (1 + e^-x), hard mish x (x > 0), x^2/2 + x (-2 < x <= 0), 0; relu6 min(max(x, 0), 6).
#pragma once

#include <string_view>

#include "base/result.hpp"

namespace tessera::kernels {

enum class Activation {
  kLogistic,
  kLoggy,
  kRelu,
  kElu,
  kRelie,
  kPlse,
  kHardtan,
  kLhtan,
  kLinear,
  kRamp,
  kLeaky,
  kTanh,
  kStair,
  kSelu,
  kMish,
  kHardMish,
  kSwish,
  kRelu6,
};

// Name as in a cfg ("leaky"). An unknown name is an error; Darknet itself silently takes relu then.
std::string_view to_string(Activation activation);
[[nodiscard]] base::Result<Activation> activation_from_string(std::string_view name);

// y = f(x).
float activate(float x, Activation activation);

// dL/dx / dL/dy, evaluated on the OUTPUT value y as Darknet's gradient_array does (for some activations that is
// not the mathematical derivative; results follow Darknet).
float activation_slope(float y, Activation activation);

// The same at the INPUT x. mish, hard mish and swish have no other: their output does not tell where on the curve it is.
float activation_slope_at(float x, Activation activation);

}  // namespace tessera::kernels
