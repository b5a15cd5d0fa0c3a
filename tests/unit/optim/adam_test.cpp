// Adam against the formulas in double precision.
#include "optim/adam.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "tests/support/random.hpp"
#include "tests/support/seed.hpp"

using namespace tessera;

namespace {

struct Reference {
  std::vector<double> values, first, second, largest;

  void step(const optim::Adam& adam, const std::vector<float>& gradient, bool amsgrad) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double d = gradient[i] - static_cast<double>(adam.decay) * adam.batch * values[i];
      const double b1 = adam.b1, b2 = adam.b2;
      first[i] = b1 * first[i] + (1 - b1) * d;
      second[i] = b2 * second[i] + (1 - b2) * d * d;
      largest[i] = std::fmax(largest[i], second[i]);
      const double scale = (amsgrad ? largest[i] : second[i]) / (1 - std::pow(b2, adam.step));
      values[i] += adam.learning_rate * first[i] / (1 - std::pow(b1, adam.step)) / (std::sqrt(scale) + adam.eps);
    }
  }
};

}  // namespace

TEST_CASE("Adam and AMSGrad follow the formulas in double precision, in slices as in one piece") {
  constexpr std::size_t kSize = 70001;  // two tasks
  constexpr int kSteps = 40;
  for (const bool amsgrad : {false, true}) {
    CAPTURE(amsgrad);
    testing::Rng rng(testing::seed());
    std::vector<float> values(kSize), gradient(kSize), first(kSize), second(kSize), largest(amsgrad ? kSize : 0);
    for (float& value : values) value = rng.uniform(-1, 1);
    Reference reference{{values.begin(), values.end()}, std::vector<double>(kSize), std::vector<double>(kSize), std::vector<double>(kSize)};
    std::vector<float> sliced = values, sliced_first = first, sliced_second = second, sliced_largest = largest;
    base::ThreadPool one(1), two(2);
    optim::Adam adam{0.9f, 0.99f, 1e-6f, 0.01f, 0.002f, 8, 0};
    for (int step = 1; step <= kSteps; ++step) {
      adam.step = step;
      // Gradients that grow small again, so that AMSGrad's largest moment is not the last one.
      for (float& g : gradient) g = rng.uniform(-1, 1) * (step < 10 ? 20.0f : 1.0f);
      optim::update(adam, {values, gradient, first, second, largest}, two);
      reference.step(adam, gradient, amsgrad);
      for (const auto& [begin, count] : {std::pair<std::size_t, std::size_t>{0, 3}, {3, 65536}, {65539, kSize - 65539}}) {
        const auto part = [&](std::vector<float>& all) { return std::span(all).subspan(all.empty() ? 0 : begin, all.empty() ? 0 : count); };
        optim::update(adam, {part(sliced), part(gradient), part(sliced_first), part(sliced_second), part(sliced_largest)}, one);
      }
    }
    double worst = 0;
    for (std::size_t i = 0; i < kSize; ++i) {
      const double difference = std::fabs(values[i] - reference.values[i]);
      worst = difference <= worst ? worst : difference;  // NaN stays
    }
    CHECK(worst <= 2e-6);
    CHECK(sliced == values);
    CHECK(sliced_largest == largest);
  }
}
