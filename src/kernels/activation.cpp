#include "kernels/activation.hpp"

#include <array>
#include <utility>

#include "kernels/activation_inline.hpp"

namespace tessera::kernels {
namespace {

constexpr std::array<std::pair<Activation, std::string_view>, 18> kNames{{
    {Activation::kLogistic, "logistic"},
    {Activation::kLoggy, "loggy"},
    {Activation::kRelu, "relu"},
    {Activation::kElu, "elu"},
    {Activation::kRelie, "relie"},
    {Activation::kPlse, "plse"},
    {Activation::kHardtan, "hardtan"},
    {Activation::kLhtan, "lhtan"},
    {Activation::kLinear, "linear"},
    {Activation::kRamp, "ramp"},
    {Activation::kLeaky, "leaky"},
    {Activation::kTanh, "tanh"},
    {Activation::kStair, "stair"},
    {Activation::kSelu, "selu"},
    {Activation::kMish, "mish"},
    {Activation::kHardMish, "hard_mish"},
    {Activation::kSwish, "swish"},
    {Activation::kRelu6, "relu6"},
}};

}  // namespace

std::string_view to_string(Activation activation) {
  for (const auto& [value, name] : kNames)
    if (value == activation) return name;
  base::fail_check(__FILE__, __LINE__, "known activation", fmt::format("activation={}", static_cast<int>(activation)));
}

base::Result<Activation> activation_from_string(std::string_view name) {
  std::string known;
  for (const auto& [value, text] : kNames) {
    if (text == name) return value;
    known.append(known.empty() ? "" : ", ").append(text);
  }
  return base::error(base::ErrorCode::kInvalidArgument, "unknown activation '{}': use one of {}", name, known);
}

float activate(float x, Activation activation) {
  return with_activation(activation, [x]<Activation A>() { return activate_as<A>(x); });
}

float activation_slope(float y, Activation activation) {
  return with_activation(activation, [y]<Activation A>() { return slope_as<A>(y); });
}

float activation_slope_at(float x, Activation activation) {
  return with_activation(activation, [x]<Activation A>() { return slope_at<A>(x); });
}

}  // namespace tessera::kernels
