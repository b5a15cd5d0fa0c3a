#include <doctest/doctest.h>

#include "base/thread_pool.hpp"
#include "kernels/batch_norm.hpp"
#include "tests/unit/kernels/support.hpp"

namespace tessera::kernels::test {
namespace {

using base::ThreadPool;

struct Setup {
  Shape shape;
  Index batch;
  std::vector<float> mean, variance, scales, biases;
  NormParameters parameters(Activation activation) const {
    return {mean.data(), variance.data(), scales.data(), biases.data(), activation};
  }
};

Setup random_setup(Random& random) {
  Setup setup;
  setup.shape = {uniform(random, 1, 5), uniform(random, 1, 40), uniform(random, 1, 70)};
  setup.batch = uniform(random, 1, 3);
  const auto channels = static_cast<std::size_t>(setup.shape.c);
  setup.mean = random_values(random, channels);
  setup.variance = random_values(random, channels, .1f, 2);
  setup.scales = random_values(random, channels, .5f, 1.5f);
  setup.biases = random_values(random, channels);
  return setup;
}

Box random_box(Random& random, const Setup& setup) {
  return {random_range(random, setup.batch), random_range(random, setup.shape.c), random_range(random, setup.shape.y),
          random_range(random, setup.shape.x)};
}

Box random_view_box(Random& random, const Box& part, const Setup& setup) {
  return {random_hull(random, part.n, setup.batch), random_hull(random, part.c, setup.shape.c), random_hull(random, part.y, setup.shape.y),
          random_hull(random, part.x, setup.shape.x)};
}

TEST_CASE("batch norm: moments equal the two-pass sums, per channel, for any box and view") {
  for (unsigned seed = 1; seed <= 150; ++seed) {
    CAPTURE(seed);
    Random random(seed);
    const Setup setup = random_setup(random);
    const Box box = random_box(random, setup);
    CAPTURE(to_string(box));
    Tensor x(random_view_box(random, box, setup));
    x.randomize(random, box);
    x.each(box, [](float& cell) { cell = 100 + 3 * cell; });  // far from zero: naive sums of squares would fail
    ThreadPool pool(1 + static_cast<int>(seed % 3));
    std::vector<ChannelMoments> got(static_cast<std::size_t>(setup.shape.c));
    moments(x.view(), box, got, pool);
    for (Index c = 0; c < setup.shape.c; ++c) {
      const Box channel{box.n, {c, c + 1}, box.y, box.x};
      const ChannelMoments& moment = got[static_cast<std::size_t>(c)];
      if (!box.c.contains({c, c + 1})) {
        CHECK(moment.count == 0);
        continue;
      }
      double sum = 0, squares = 0;
      const auto count = static_cast<double>(channel.elements());
      x.each(channel, [&](float cell) { sum += cell; });
      x.each(channel, [&](float cell) { squares += (cell - sum / count) * (cell - sum / count); });
      CHECK(moment.count == count);
      CHECK_NEAR(moment.mean, sum / count, 1e-5);
      CHECK_NEAR(moment.m2, squares, 2e-5 * squares + 1e-6);
    }
  }
}

TEST_CASE("batch norm: moments of cells that differ in their last bits only") {
  for (unsigned seed = 1; seed <= 20; ++seed) {
    CAPTURE(seed);
    Random random(seed);
    const Box box = Box::whole(1, {1, 7, 99});
    Tensor x(box);
    x.randomize(random);
    x.each(box, [](float& cell) { cell = 1000 + .0005f * cell; });
    ThreadPool pool(1);
    std::vector<ChannelMoments> got(1);
    moments(x.view(), box, got, pool);
    double sum = 0, squares = 0;
    x.each(box, [&](float cell) { sum += cell; });
    x.each(box, [&](float cell) { squares += (cell - sum / 693) * (cell - sum / 693); });
    CHECK_NEAR(got[0].mean, sum / 693, 1e-6);
    CHECK_NEAR(got[0].m2, squares, 2e-5 * squares);
  }
}

TEST_CASE("batch norm: merged moments of parts are the moments of the whole; empty parts add nothing") {
  Random random(7);
  const Box whole = Box::whole(3, {4, 33, 21});
  Tensor x(whole);
  x.randomize(random);
  ThreadPool pool(2);
  std::vector<ChannelMoments> expected(4), part(4), parts, merged(4);
  moments(x.view(), whole, expected, pool);
  for (const Box& box : {Box{{0, 3}, {0, 4}, {0, 11}, {0, 21}}, Box{}, Box{{0, 2}, {0, 4}, {11, 33}, {0, 21}},
                         Box{{2, 3}, {0, 1}, {11, 33}, {0, 21}}, Box{{2, 3}, {1, 4}, {11, 33}, {0, 21}}}) {
    moments(x.view(), box, part, pool);
    parts.insert(parts.end(), part.begin(), part.end());
  }
  merge_moments(parts, merged);
  for (std::size_t c = 0; c < 4; ++c) {
    CHECK(merged[c].count == expected[c].count);
    CHECK_NEAR(merged[c].mean, expected[c].mean, 1e-7);
    CHECK_NEAR(merged[c].m2, expected[c].m2, 1e-5 * expected[c].m2);
  }
}

TEST_CASE("batch norm: variance uses N - 1, rolling averages move by a hundredth") {
  const std::vector<ChannelMoments> total{{5, 2, 8}};
  float mean = 0, variance = 0, rolling_mean = 1, rolling_variance = 3;
  finish_moments(total, &mean, &variance, &rolling_mean, &rolling_variance);
  CHECK_NEAR(mean, 2, 0);
  CHECK_NEAR(variance, 2, 0);
  CHECK_NEAR(rolling_mean, 1.01, 1e-6);
  CHECK_NEAR(rolling_variance, 2.99, 1e-6);
}

TEST_CASE("batch norm: normalize_activate in place and out of place, nothing outside the box touched") {
  for (unsigned seed = 1; seed <= 100; ++seed) {
    CAPTURE(seed);
    Random random(seed);
    const Setup setup = random_setup(random);
    const Box box = random_box(random, setup);
    const auto activation = static_cast<Activation>(seed % 14);
    CAPTURE(to_string(activation));
    CAPTURE(to_string(box));
    const NormParameters parameters = setup.parameters(activation);
    ThreadPool pool(1 + static_cast<int>(seed % 3));
    Tensor x(random_view_box(random, box, setup));
    x.randomize(random, box);
    Tensor y(random_view_box(random, box, setup));
    const Tensor before = y;
    normalize_activate(x.view(), parameters, y.view(), box, pool);
    CHECK(y.same_outside(before, box));

    // Double arithmetic of the formula; stair and the tans have jumps where rounding decides, so those see the sum only.
    Tensor expected(box);
    for (Index n = box.n.begin; n < box.n.end; ++n)
      for (Index c = box.c.begin; c < box.c.end; ++c)
        for (Index row = box.y.begin; row < box.y.end; ++row)
          for (Index column = box.x.begin; column < box.x.end; ++column) {
            const double norm = (static_cast<double>(x.at(n, c, row, column)) - parameters.mean[c]) /
                                (std::sqrt(static_cast<double>(parameters.variance[c])) + 1e-6);
            expected.at(n, c, row, column) = activate(static_cast<float>(norm * parameters.scales[c] + parameters.biases[c]), activation);
          }
    CHECK_SMALL(relative_error(y.view(), expected.view(), box), 1e-5);

    const Tensor x_before = x;
    normalize_activate(x.view(), parameters, x.view(), box, pool);
    CHECK(x.same_outside(x_before, box));
    CHECK(relative_error(x.view(), y.view(), box) == 0);
  }
}

// The loss of a normalised layer over a whole tensor in double, and Darknet's gradient against central differences.
double loss(const std::vector<double>& values, const std::vector<float>& weights, const Setup& setup, const std::vector<double>& scales,
            const std::vector<double>& biases) {
  const Index channels = setup.shape.c, cells = setup.shape.y * setup.shape.x;
  const auto count = static_cast<double>(setup.batch * cells);
  double sum = 0;
  for (Index c = 0; c < channels; ++c) {
    double mean = 0, variance = 0;
    const auto each = [&](const auto& body) {
      for (Index n = 0; n < setup.batch; ++n)
        for (Index i = 0; i < cells; ++i) body(static_cast<std::size_t>((n * channels + c) * cells + i));
    };
    each([&](std::size_t i) { mean += values[i] / count; });
    each([&](std::size_t i) { variance += (values[i] - mean) * (values[i] - mean) / count; });
    each([&](std::size_t i) {
      const auto channel = static_cast<std::size_t>(c);
      const double z = (values[i] - mean) / std::sqrt(variance) * scales[channel] + biases[channel];
      sum += weights[i] * (z > 0 ? z : .1 * z);
    });
  }
  return sum;
}

TEST_CASE("batch norm: the scale gradient divides by the forward formula's deviation") {
  const std::vector<ChannelSums> sums{{3, 5}, {0, -2}};
  const std::vector<float> variance{1e-8f, 4};
  std::vector<float> scale_gradient{1, 1}, bias_gradient{2, 2};
  add_norm_gradients(sums, {nullptr, variance.data()}, scale_gradient.data(), bias_gradient.data());
  CHECK_NEAR(scale_gradient[0], 1 + 5 / (1e-4 + 1e-6), 1);
  CHECK_NEAR(scale_gradient[1], 1 - 2 / (2 + 1e-6), 1e-6);
  CHECK_NEAR(bias_gradient[0], 5, 0);
  CHECK_NEAR(bias_gradient[1], 2, 0);
}

TEST_CASE("batch norm: gradients against central differences of the whole layer") {
  Random random(11);
  Setup setup = random_setup(random);
  setup.shape = {3, 9, 7};
  setup.batch = 4;
  setup.scales = {.7f, 1.2f, .9f};
  setup.biases = {.1f, -.3f, .2f};
  const Box whole = Box::whole(setup.batch, setup.shape);
  const auto cells = static_cast<std::size_t>(whole.elements());
  Tensor x(whole), delta(whole);
  x.randomize(random);
  delta.randomize(random);
  const std::vector<float> weights(delta.view().data, delta.view().data + cells);
  ThreadPool pool(2);

  std::vector<ChannelMoments> total(3);
  moments(x.view(), whole, total, pool);
  setup.mean.resize(3);
  setup.variance.resize(3);
  finish_moments(total, setup.mean.data(), setup.variance.data(), nullptr, nullptr);
  const NormParameters parameters = setup.parameters(Activation::kLeaky);
  std::vector<ChannelSums> sums(3);
  activation_delta_sums(delta.view(), x.view(), parameters, whole, whole, sums, pool);
  std::vector<float> scale_gradient(3), bias_gradient(3);
  add_norm_gradients(sums, parameters, scale_gradient.data(), bias_gradient.data());
  normalize_delta(delta.view(), x.view(), parameters, sums, total[0].count, whole, pool);

  const std::vector<double> values(x.view().data, x.view().data + cells);
  const std::vector<double> scales(setup.scales.begin(), setup.scales.end()), biases(setup.biases.begin(), setup.biases.end());
  const double h = 1e-5;
  // Darknet divides by N - 1 in the variance and not in the backward formula: agreement is to about 1 / N.
  const double tolerance = 3. / total[0].count;
  double largest = 0;
  for (std::size_t i = 0; i < cells; i += 13) {
    CAPTURE(i);
    auto up = values, down = values;
    up[i] += h;
    down[i] -= h;
    const double expected = (loss(up, weights, setup, scales, biases) - loss(down, weights, setup, scales, biases)) / (2 * h);
    CHECK_NEAR(delta.view().data[i], expected, tolerance);
    largest = std::max(largest, std::abs(expected));
  }
  CHECK(largest > 20 * tolerance);
  for (std::size_t c = 0; c < 3; ++c) {
    CAPTURE(c);
    auto up = scales, down = scales;
    up[c] += h;
    down[c] -= h;
    const double by_scale = (loss(values, weights, setup, up, biases) - loss(values, weights, setup, down, biases)) / (2 * h);
    CHECK_NEAR(scale_gradient[c], by_scale, 1e-2 * std::abs(by_scale) + 1e-2);
    up = down = biases;
    up[c] += h;
    down[c] -= h;
    const double by_bias = (loss(values, weights, setup, scales, up) - loss(values, weights, setup, scales, down)) / (2 * h);
    CHECK_NEAR(bias_gradient[c], by_bias, 1e-2 * std::abs(by_bias) + 1e-2);
  }
}

TEST_CASE("batch norm: backward passes on boxes against scalar loops of Darknet's formulas") {
  for (unsigned seed = 1; seed <= 150; ++seed) {
    CAPTURE(seed);
    Random random(seed);
    const Setup setup = random_setup(random);
    const Box box = random_box(random, setup);
    const Activation activation = seed % 3 == 0 ? Activation::kLogistic : seed % 3 == 1 ? Activation::kLeaky : Activation::kLinear;
    Box owned = seed % 10 == 0 ? Box{} : intersect(box, random_box(random, setup));
    CAPTURE(to_string(box));
    CAPTURE(to_string(owned));
    const NormParameters parameters = setup.parameters(activation);
    ThreadPool pool(1 + static_cast<int>(seed % 3));
    Tensor x(random_view_box(random, box, setup)), delta(random_view_box(random, box, setup));
    x.randomize(random, box);
    delta.randomize(random, box);
    const Tensor before = delta;
    Tensor y(box), expected = delta;
    normalize_activate(x.view(), parameters, y.view(), box, pool);
    const auto channels = static_cast<std::size_t>(setup.shape.c);
    std::vector<double> s1(channels), s2(channels);
    for (Index n = box.n.begin; n < box.n.end; ++n)
      for (Index c = box.c.begin; c < box.c.end; ++c)
        for (Index row = box.y.begin; row < box.y.end; ++row)
          for (Index column = box.x.begin; column < box.x.end; ++column) {
            float& cell = expected.at(n, c, row, column);
            cell *= activation_slope(y.at(n, c, row, column), activation);
            if (!owned.contains(Box{{n, n + 1}, {c, c + 1}, {row, row + 1}, {column, column + 1}})) continue;
            s1[static_cast<std::size_t>(c)] += cell;
            s2[static_cast<std::size_t>(c)] += static_cast<double>(cell) * (x.at(n, c, row, column) - parameters.mean[c]);
          }
    std::vector<ChannelSums> sums(channels);
    activation_delta_sums(delta.view(), x.view(), parameters, box, owned, sums, pool);
    CHECK(delta.same_outside(before, box));
    CHECK(relative_error(delta.view(), expected.view(), box) <= 1e-7);
    const double scale = 1e-5 * static_cast<double>(box.elements());
    for (std::size_t c = 0; c < channels; ++c) {
      CHECK_NEAR(sums[c].delta, s1[c], scale);
      CHECK_NEAR(sums[c].delta_x, s2[c], scale);
    }

    const double count = 1234;
    const Tensor half = delta;
    normalize_delta(delta.view(), x.view(), parameters, sums, count, box, pool);
    CHECK(delta.same_outside(half, box));
    for (Index n = box.n.begin; n < box.n.end; ++n)
      for (Index c = box.c.begin; c < box.c.end; ++c) {
        const auto i = static_cast<std::size_t>(c);
        const double variance = parameters.variance[c] + 1e-5, gain = parameters.scales[c];
        const double mean_delta = gain * sums[i].delta * (-1 / std::sqrt(variance));
        const double variance_delta = gain * sums[i].delta_x * -.5 * std::pow(variance, -1.5);
        for (Index row = box.y.begin; row < box.y.end; ++row)
          for (Index column = box.x.begin; column < box.x.end; ++column) {
            float& cell = expected.at(n, c, row, column);
            cell = static_cast<float>(cell * gain / std::sqrt(variance) +
                                      variance_delta * 2 * (x.at(n, c, row, column) - parameters.mean[c]) / count + mean_delta / count);
          }
      }
    CHECK_SMALL(relative_error(delta.view(), expected.view(), box), 1e-5);
  }
}

TEST_CASE("layers without batch norm: bias, activation and their backward") {
  for (unsigned seed = 1; seed <= 60; ++seed) {
    CAPTURE(seed);
    Random random(seed);
    const Setup setup = random_setup(random);
    const Box box = random_box(random, setup);
    const Box owned = intersect(box, random_box(random, setup));
    const auto activation = static_cast<Activation>(seed % 14);
    CAPTURE(to_string(activation));
    ThreadPool pool(1 + static_cast<int>(seed % 3));
    Tensor y(random_view_box(random, box, setup)), delta(random_view_box(random, box, setup));
    y.randomize(random, box);
    delta.randomize(random, box);
    const Tensor y_before = y, delta_before = delta;
    const float* biases = seed % 4 == 0 ? nullptr : setup.biases.data();
    bias_activate(y.view(), biases, activation, box, pool);
    CHECK(y.same_outside(y_before, box));
    std::vector<ChannelSums> sums(static_cast<std::size_t>(setup.shape.c));
    activation_delta(delta.view(), y.view(), activation, box, owned, sums, pool);
    CHECK(delta.same_outside(delta_before, box));
    std::vector<double> expected(sums.size());
    Tensor plain = y_before, scaled = delta_before;
    for (Index n = box.n.begin; n < box.n.end; ++n)
      for (Index c = box.c.begin; c < box.c.end; ++c)
        for (Index row = box.y.begin; row < box.y.end; ++row)
          for (Index column = box.x.begin; column < box.x.end; ++column) {
            float& cell = plain.at(n, c, row, column);
            cell = activate(cell + (biases == nullptr ? 0 : biases[c]), activation);
            float& d = scaled.at(n, c, row, column);
            d *= activation_slope(cell, activation);
            if (owned.contains(Box{{n, n + 1}, {c, c + 1}, {row, row + 1}, {column, column + 1}}))
              expected[static_cast<std::size_t>(c)] += d;
          }
    CHECK(relative_error(y.view(), plain.view(), box) <= 1e-7);
    CHECK(relative_error(delta.view(), scaled.view(), box) <= 1e-7);
    std::vector<float> gradient(sums.size(), 1), want(sums.size(), 1);
    for (std::size_t c = 0; c < sums.size(); ++c) want[c] += static_cast<float>(expected[c]);
    add_bias_gradients(sums, gradient.data());
    for (std::size_t c = 0; c < sums.size(); ++c) CHECK_NEAR(gradient[c], want[c], 1e-5 * static_cast<double>(box.elements()) + 1e-6);
  }
}

TEST_CASE("batch norm: bit-identical for any number of threads") {
  Random random(3);
  const Box whole = Box::whole(2, {5, 150, 201});
  Tensor x(whole), delta(whole);
  x.randomize(random);
  delta.randomize(random);
  const std::vector<float> ones(5, 1), zeros(5);
  const NormParameters parameters{zeros.data(), ones.data(), ones.data(), zeros.data(), Activation::kLeaky};
  std::vector<ChannelMoments> first_moments;
  std::vector<ChannelSums> first_sums;
  for (const int threads : {1, 2, 3, 5}) {
    CAPTURE(threads);
    ThreadPool pool(threads);
    std::vector<ChannelMoments> moment(5);
    std::vector<ChannelSums> sums(5);
    Tensor copy = delta;
    moments(x.view(), whole, moment, pool);
    activation_delta_sums(copy.view(), x.view(), parameters, whole, {{0, 2}, {0, 5}, {3, 140}, {5, 200}}, sums, pool);
    if (threads == 1) {
      first_moments = moment;
      first_sums = sums;
    }
    CHECK(std::memcmp(moment.data(), first_moments.data(), moment.size() * sizeof(ChannelMoments)) == 0);
    CHECK(std::memcmp(sums.data(), first_sums.data(), sums.size() * sizeof(ChannelSums)) == 0);
  }
}

}  // namespace
}  // namespace tessera::kernels::test
