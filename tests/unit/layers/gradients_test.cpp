// Derivatives against central differences.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "plugins/layers/activations.hpp"
#include "plugins/layers/boxes.hpp"
#include "tests/support/random.hpp"

using namespace tessera::layers;
using tessera::kernels::activate;
using tessera::kernels::activation_slope_at;

TEST_CASE("activations that upstream lacks have their own derivative") {
  constexpr double kStep = 1e-3;
  for (const char* name : {"mish", "hard_mish", "swish", "relu6"}) {
    const auto activation = *own_activation(name);
    for (float x = -8.07f; x < 9; x += 0.11f) {
      const double difference =
          (activate(x + static_cast<float>(kStep), activation) - activate(x - static_cast<float>(kStep), activation)) / (2 * kStep);
      CHECK_MESSAGE(std::abs(activation_slope_at(x, activation) - difference) <= 3e-3, name, " at ", x);
    }
  }
  CHECK_FALSE(own_activation("leaky"));
  CHECK(activate(30, tessera::kernels::Activation::kMish) == 30);
  CHECK(activate(-100, tessera::kernels::Activation::kSwish) == doctest::Approx(0));
}

// AlexeyAB's gradients by w and h are those of the edges, twice those of the sizes (boxes.hpp).
TEST_CASE("IoU and GIoU grow with the numbers of a box as their gradient says") {
  constexpr float kStep = 1e-3f;
  tessera::testing::Rng rng(5);
  for (BoxLoss kind : {BoxLoss::kIou, BoxLoss::kGiou})
    for (int i = 0; i < 200; ++i) {
      const auto draw = [&](float from, float to) { return rng.uniform(from, to); };
      const box truth{draw(.3f, .7f), draw(.3f, .7f), draw(.2f, .5f), draw(.2f, .5f)};
      const box b{truth.x + draw(-.1f, .1f), truth.y + draw(-.1f, .1f), draw(.2f, .5f), draw(.2f, .5f)};
      const auto measured = [&](float box::*number) {
        box more = b, less = b;
        more.*number += kStep, less.*number -= kStep;
        return (overlap(more, truth, kind) - overlap(less, truth, kind)) / (2 * kStep);
      };
      // An edge within a step of the other box's has two derivatives.
      const auto near = [&](float p, float p_size, float t, float t_size) {
        return std::min(std::abs(p - p_size / 2 - t + t_size / 2), std::abs(p + p_size / 2 - t - t_size / 2)) < 2 * kStep;
      };
      if (near(b.x, b.w, truth.x, truth.w) || near(b.y, b.h, truth.y, truth.h)) continue;
      const BoxGradient g = overlap_gradient(b, truth, kind);
      CHECK(std::abs(g.x - measured(&box::x)) <= 2e-2);
      CHECK(std::abs(g.y - measured(&box::y)) <= 2e-2);
      CHECK(std::abs(g.w / 2 - measured(&box::w)) <= 2e-2);
      CHECK(std::abs(g.h / 2 - measured(&box::h)) <= 2e-2);
    }
}
