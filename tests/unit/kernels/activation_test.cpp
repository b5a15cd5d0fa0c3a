#include <doctest/doctest.h>

#include <array>

#include "kernels/activation.hpp"
#include "tests/unit/kernels/support.hpp"

namespace tessera::kernels::test {
namespace {

struct Sample {
  Activation activation;
  double x, y;  // y worked out by hand from Darknet's activations.h
};

constexpr std::array<Sample, 32> kSamples{{
    {Activation::kLinear, -2.5, -2.5},
    {Activation::kLogistic, 0, .5},
    {Activation::kLogistic, 2, .880797078},
    {Activation::kLoggy, 2, .761594156},
    {Activation::kRelu, 3, 3},
    {Activation::kRelu, -3, 0},
    {Activation::kElu, 2, 2},
    {Activation::kElu, -1, -.632120559},
    {Activation::kSelu, 1, 1.0507},
    {Activation::kSelu, -1, -1.1112877},
    {Activation::kRelie, 4, 4},
    {Activation::kRelie, -4, -.04},
    {Activation::kRamp, 2, 2.2},
    {Activation::kRamp, -2, -.2},
    {Activation::kLeaky, 5, 5},
    {Activation::kLeaky, -5, -.5},
    {Activation::kTanh, .5, .462117157},
    {Activation::kPlse, -5, -.01},
    {Activation::kPlse, 5, 1.01},
    {Activation::kPlse, 2, .75},
    {Activation::kStair, 2.3, 1},
    {Activation::kStair, 3.25, 1.25},
    {Activation::kStair, -1.5, -1},
    {Activation::kStair, -.25, -.25},
    {Activation::kHardtan, -3, -1},
    {Activation::kHardtan, 3, 1},
    {Activation::kHardtan, .3, .3},
    {Activation::kLhtan, -2, -.002},
    {Activation::kLhtan, 3, 1.002},
    {Activation::kLhtan, .4, .4},
    {Activation::kTanh, 400, 1},
    {Activation::kLogistic, -400, 0},
}};

TEST_CASE("activations: values of Darknet's formulas") {
  for (const Sample& sample : kSamples) {
    INFO(to_string(sample.activation), " of ", sample.x);
    CHECK_NEAR(activate(static_cast<float>(sample.x), sample.activation), sample.y, 1e-6);
  }
}

TEST_CASE("activations: slopes are Darknet's, as functions of the output") {
  constexpr std::array<Sample, 22> kSlopes{{
      {Activation::kLinear, 7, 1},   {Activation::kLogistic, .25, .1875}, {Activation::kLoggy, .5, .375},
      {Activation::kRelu, .1, 1},    {Activation::kRelu, 0, 0},           {Activation::kElu, .5, 1},
      {Activation::kElu, -.5, .5},   {Activation::kSelu, 1, 1.0507},      {Activation::kSelu, -.5, 1.25803124},
      {Activation::kRelie, -1, .01}, {Activation::kRelie, 1, 1},          {Activation::kRamp, 1, 1.1},
      {Activation::kRamp, -1, .1},   {Activation::kLeaky, -1, .1},        {Activation::kLeaky, 1, 1},
      {Activation::kTanh, .5, .75},  {Activation::kPlse, .5, .125},       {Activation::kPlse, 1.5, .01},
      {Activation::kStair, 2, 0},    {Activation::kStair, 2.5, 1},        {Activation::kHardtan, 1, 0},
      {Activation::kLhtan, 1, .001},
  }};
  for (const Sample& sample : kSlopes) {
    INFO(to_string(sample.activation), " at ", sample.x);
    CHECK_NEAR(activation_slope(static_cast<float>(sample.x), sample.activation), sample.y, 1e-6);
  }
}

// Where Darknet's slope is the derivative it must agree with central differences. selu below zero, where Darknet
// leaves the derivative, is in the table above.
TEST_CASE("activations: slopes against central differences") {
  for (const Activation activation :
       {Activation::kLogistic, Activation::kLoggy, Activation::kRelu, Activation::kElu, Activation::kRelie, Activation::kPlse,
        Activation::kHardtan, Activation::kLinear, Activation::kRamp, Activation::kLeaky, Activation::kTanh}) {
    for (const float x : {-1.7f, -.6f, -.3f, .4f, .9f, 1.6f}) {
      INFO(to_string(activation), " at ", x);
      const float h = 1e-2f;
      const double slope = (static_cast<double>(activate(x + h, activation)) - activate(x - h, activation)) / (2. * h);
      CHECK_NEAR(activation_slope(activate(x, activation), activation), slope, 1e-4);
    }
  }
}

TEST_CASE("activations: slopes at the input are derivatives, those of AlexeyAB's dialect too") {
  for (const Activation activation :
       {Activation::kMish, Activation::kHardMish, Activation::kSwish, Activation::kRelu6, Activation::kLeaky, Activation::kLogistic})
    for (float x = -12.03f; x < 25; x += 0.37f) {
      INFO(to_string(activation), " at ", x);
      const float h = 1e-2f;
      const double slope = (static_cast<double>(activate(x + h, activation)) - activate(x - h, activation)) / (2. * h);
      CHECK_NEAR(activation_slope_at(x, activation), slope, 1e-3);
    }
  CHECK_NEAR(activate(1, Activation::kMish), .865098388, 1e-6);
  CHECK_NEAR(activate(1, Activation::kSwish), .731058579, 1e-6);
  CHECK_NEAR(activate(-1, Activation::kHardMish), -.5, 1e-6);
  CHECK(activate(7, Activation::kRelu6) == 6);
  CHECK(activate(30, Activation::kMish) == 30);
  CHECK_NEAR(activate(-100, Activation::kSwish), 0, 1e-6);
}

TEST_CASE("activations: NaN stays NaN where a bad training run must be noticed") {
  for (const Activation activation : {Activation::kLinear, Activation::kRelu, Activation::kLeaky, Activation::kRamp, Activation::kRelie,
                                      Activation::kLogistic, Activation::kTanh, Activation::kElu})
    CHECK(std::isnan(activate(std::nanf(""), activation)));
}

TEST_CASE("activations: names go both ways, unknown ones are refused with the list") {
  for (int i = 0; i < 18; ++i) {
    const auto activation = static_cast<Activation>(i);
    const auto parsed = activation_from_string(to_string(activation));
    REQUIRE(parsed.has_value());
    CHECK(*parsed == activation);
  }
  const auto unknown = activation_from_string("maxout");
  REQUIRE_FALSE(unknown.has_value());
  CHECK(unknown.error().message.find("maxout") != std::string::npos);
  CHECK(unknown.error().message.find("leaky") != std::string::npos);
}

}  // namespace
}  // namespace tessera::kernels::test
