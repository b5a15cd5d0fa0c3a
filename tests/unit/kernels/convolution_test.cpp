#include <doctest/doctest.h>

#include <filesystem>

#include "base/thread_pool.hpp"
#include "kernels/convolution.hpp"
#include "kernels/convolution_backends.hpp"
#include "tests/unit/kernels/support.hpp"

namespace tessera::kernels::test {
namespace {

using base::ThreadPool;

// A layer, a box of each pass, and views that hold exactly or more than what the pass needs.
struct Case {
  ConvolutionShape shape;
  Index batch = 1;
  Box out;  // computed by forward, summed by backward_weights
  Box in;   // computed by backward_data

  Shape in_shape() const { return {shape.in_c, shape.in_y, shape.in_x}; }
  Shape out_shape() const { return {shape.out_c, shape.out_y(), shape.out_x()}; }
  Box input_needed() const {
    return {out.n, {0, shape.in_c}, input_range(shape.rows(), out.y, shape.in_y), input_range(shape.columns(), out.x, shape.in_x)};
  }
  Box delta_needed(Range channels) const {
    return {in.n, channels, output_range(shape.rows(), in.y, shape.out_y()), output_range(shape.columns(), in.x, shape.out_x())};
  }
  std::string text() const {
    return "shape c" + std::to_string(shape.in_c) + " y" + std::to_string(shape.in_y) + " x" + std::to_string(shape.in_x) + " filters " +
           std::to_string(shape.out_c) + " kernel " + std::to_string(shape.kernel) + " stride " + std::to_string(shape.stride) + " pad " +
           std::to_string(shape.pad) + " stride_x " + std::to_string(shape.stride_x) + " dilation " + std::to_string(shape.dilation) +
           " groups " + std::to_string(shape.groups) + " batch " + std::to_string(batch) + " out " + to_string(out) + " in " +
           to_string(in);
  }
};

Case random_case(Random& random, Index channels, Index size) {
  Case c;
  do {
    c.shape = {uniform(random, 1, channels),
               uniform(random, 1, size),
               uniform(random, 1, size),
               uniform(random, 1, channels),
               static_cast<int>(uniform(random, 1, 7)),
               static_cast<int>(uniform(random, 1, 3)),
               0};
    c.shape.pad = static_cast<int>(uniform(random, 0, 1) == 0 ? c.shape.kernel / 2 : uniform(random, 0, c.shape.kernel));
    if (uniform(random, 0, 3) == 0) {
      c.shape.kernel = c.shape.stride = 1;  // the pass without copies
      c.shape.pad = 0;
    }
  } while (c.shape.in_y + 2 * c.shape.pad < c.shape.kernel || c.shape.in_x + 2 * c.shape.pad < c.shape.kernel);
  c.batch = uniform(random, 1, 3);
  c.out = {random_range(random, c.batch), random_range(random, c.shape.out_c), random_range(random, c.shape.out_y()),
           random_range(random, c.shape.out_x())};
  c.in = {random_range(random, c.batch), random_range(random, c.shape.in_c), random_range(random, c.shape.in_y),
          random_range(random, c.shape.in_x)};
  return c;
}

Box hull_of(Random& random, const Box& box, Index batch, const Shape& shape) {
  return {random_hull(random, box.n, batch), random_hull(random, box.c, shape.c), random_hull(random, box.y, shape.y),
          random_hull(random, box.x, shape.x)};
}

std::unique_ptr<Convolution> make(Backend backend, const ConvolutionShape& shape, ThreadPool& pool, Scratch& scratch) {
  auto made = make_convolution(backend, shape, pool, scratch);
  REQUIRE(made.has_value());
  return std::move(*made);
}

constexpr double kTolerance = 3e-6;  // relative L2; float sums of some thousand products

// One random call of each pass against the reference; poisoned cells show reads, guards show writes.
void check_case(Backend backend, const Case& c, Random& random, int threads) {
  INFO(to_string(backend), " threads ", threads, " ", c.text());
  ThreadPool pool(threads), single(1);
  Scratch scratch, none;
  const auto convolution = make(backend, c.shape, pool, scratch);
  const auto reference = make(Backend::kReference, c.shape, single, none);
  const auto weights = random_values(random, static_cast<std::size_t>(c.shape.weight_elements()));
  const Box everything = Box::whole(c.batch, c.out_shape());
  const std::size_t planned = convolution->scratch_bytes({c.out, c.in, {}, c.out});
  scratch.reserve(planned);

  const Box needed = c.input_needed();
  Tensor input(needed.empty() ? Box{c.out.n, {0, c.shape.in_c}, {0, 1}, {0, 1}} : hull_of(random, needed, c.batch, c.in_shape()));
  input.randomize(random, needed);
  Tensor output(hull_of(random, c.out, c.batch, c.out_shape()));
  const Tensor output_before = output;
  convolution->forward(input.view(), weights.data(), output.view(), c.out);
  CHECK(output.same_outside(output_before, c.out));
  Tensor expected(everything);
  reference->forward(input.view(), weights.data(), expected.view(), c.out);
  CHECK_SMALL(relative_error(output.view(), expected.view(), c.out), kTolerance);

  Tensor delta(hull_of(random, c.out, c.batch, c.out_shape()));
  delta.randomize(random, c.out);
  auto gradient = random_values(random, weights.size());
  auto want = gradient;
  convolution->backward_weights(input.view(), delta.view(), c.out, gradient.data());
  reference->backward_weights(input.view(), delta.view(), c.out, want.data());
  CHECK_SMALL(relative_error(gradient, want), kTolerance);

  // Half of the time only some filters' deltas, as when a layer is cut along c.
  const Range filters = uniform(random, 0, 1) == 0 ? Range{0, c.shape.out_c} : random_range(random, c.shape.out_c);
  const Box delta_needed = c.delta_needed(filters);
  Box delta_box = delta_needed.empty() ? Box{c.in.n, filters, {0, 1}, {0, 1}} : hull_of(random, delta_needed, c.batch, c.out_shape());
  delta_box.c = filters;
  Tensor delta_out(delta_box);
  delta_out.randomize(random, delta_needed);
  const bool accumulate = uniform(random, 0, 1) == 0;
  INFO("filters ", filters.begin, "..", filters.end, " accumulate ", accumulate);
  Tensor delta_in(hull_of(random, c.in, c.batch, c.in_shape()));
  if (accumulate) delta_in.randomize(random, c.in);
  const Tensor delta_before = delta_in;
  Tensor delta_want = delta_in;
  convolution->backward_data(delta_out.view(), weights.data(), delta_in.view(), c.in, accumulate);
  reference->backward_data(delta_out.view(), weights.data(), delta_want.view(), c.in, accumulate);
  CHECK(delta_in.same_outside(delta_before, c.in));
  CHECK_SMALL(relative_error(delta_in.view(), delta_want.view(), c.in), kTolerance);

  CHECK(scratch.bytes() <= align_up(planned));  // it grows when the plan was too small
}

std::vector<Backend> fast_backends() {
  auto backends = built_backends();
  backends.erase(backends.begin());
  return backends;
}

TEST_CASE("convolution: windows equal brute force") {
  for (unsigned seed = 1; seed <= 300; ++seed) {
    CAPTURE(seed);
    Random random(seed);
    const Case c = random_case(random, 1, 30);
    const ConvolutionShape& s = c.shape;
    Range inputs, outputs;
    for (Index o = 0; o < s.out_y(); ++o)
      for (Index i = 0; i < s.in_y; ++i) {
        const Index place = i + s.pad - o * s.stride;
        if (place < 0 || place >= s.kernel) continue;
        if (o >= c.out.y.begin && o < c.out.y.end) inputs = geometry::hull(inputs, {i, i + 1});
        if (i >= c.in.y.begin && i < c.in.y.end) outputs = geometry::hull(outputs, {o, o + 1});
      }
    CHECK(input_range(s.rows(), c.out.y, s.in_y).contains(inputs));
    CHECK(output_range(s.rows(), c.in.y, s.out_y()).contains(outputs));
    if (s.kernel >= s.stride) {
      CHECK(input_range(s.rows(), c.out.y, s.in_y) == inputs);
      CHECK(output_range(s.rows(), c.in.y, s.out_y()) == outputs);
    }
  }
}

// With groups, dilation and strides of their own along rows and columns.
Case random_uneven_case(Random& random) {
  Case c = random_case(random, 1, 17);
  const int groups = static_cast<int>(uniform(random, 1, 4));
  c.shape.groups = groups;
  c.shape.in_c = groups * uniform(random, 1, 3), c.shape.out_c = groups * uniform(random, 1, 3);
  c.shape.stride_x = static_cast<int>(uniform(random, 0, 3));
  c.shape.dilation = static_cast<int>(uniform(random, 1, 3));
  c.shape.pad *= static_cast<int>(uniform(random, 1, c.shape.dilation));
  if (c.shape.out_y() < 1 || c.shape.out_x() < 1) c.shape.pad = static_cast<int>(c.shape.rows().reach());
  c.out = {random_range(random, c.batch), random_range(random, c.shape.out_c), random_range(random, c.shape.out_y()),
           random_range(random, c.shape.out_x())};
  c.in.c = random_range(random, c.shape.in_c);
  return c;
}

TEST_CASE("convolution: groups, dilation and two strides, every backend against the reference") {
  for (unsigned seed = 1; seed <= 200; ++seed) {
    CAPTURE(seed);
    Random random(seed);
    const Case c = random_uneven_case(random);
    for (const Backend backend : fast_backends()) check_case(backend, c, random, 1 + static_cast<int>(seed % 3));
  }
}

// The reference is the sum in words; its two gradients are those of <output, delta>, which is linear in each argument.
TEST_CASE("convolution: the reference with groups, dilation and two strides is its definition and has its own derivatives") {
  ThreadPool pool(1);
  Scratch scratch;
  for (unsigned seed = 1; seed <= 100; ++seed) {
    CAPTURE(seed);
    Random random(seed);
    const Case c = random_uneven_case(random);
    const ConvolutionShape& s = c.shape;
    INFO(c.text());
    const auto reference = make(Backend::kReference, s, pool, scratch);
    const auto weights = random_values(random, static_cast<std::size_t>(s.weight_elements()));
    const Box in = Box::whole(c.batch, c.in_shape()), out = Box::whole(c.batch, c.out_shape());
    Tensor input(in), output(out), delta(out), delta_in(in);
    input.randomize(random), delta.randomize(random);
    reference->forward(input.view(), weights.data(), output.view(), out);
    std::vector<float> gradient(weights.size());
    reference->backward_weights(input.view(), delta.view(), out, gradient.data());
    reference->backward_data(delta.view(), weights.data(), delta_in.view(), in, false);
    const Index per_group = s.in_c / s.groups, stride_x = s.stride_x > 0 ? s.stride_x : s.stride;
    double worst = 0, value = 0, by_weights = 0, by_input = 0;
    Tensor& cells = output;
    for (Index n = 0; n < c.batch; ++n)
      for (Index k = 0; k < s.out_c; ++k)
        for (Index y = 0; y < s.out_y(); ++y)
          for (Index x = 0; x < s.out_x(); ++x) {
            double sum = 0;
            for (Index i = 0; i < per_group; ++i)
              for (Index ky = 0; ky < s.kernel; ++ky)
                for (Index kx = 0; kx < s.kernel; ++kx) {
                  const Index in_y = y * s.stride - s.pad + ky * s.dilation, in_x = x * stride_x - s.pad + kx * s.dilation;
                  if (in_y < 0 || in_y >= s.in_y || in_x < 0 || in_x >= s.in_x) continue;
                  const auto w = static_cast<std::size_t>(((k * per_group + i) * s.kernel + ky) * s.kernel + kx);
                  sum += static_cast<double>(weights[w]) * input.at(n, k / (s.out_c / s.groups) * per_group + i, in_y, in_x);
                }
            worst = std::max(worst, std::abs(sum - cells.at(n, k, y, x)));
            value += sum * delta.at(n, k, y, x);
          }
    CHECK_SMALL(worst, 1e-5);
    for (std::size_t i = 0; i < weights.size(); ++i) by_weights += static_cast<double>(weights[i]) * gradient[i];
    for (Index n = 0; n < c.batch; ++n)
      for (Index i = 0; i < s.in_c; ++i)
        for (Index y = 0; y < s.in_y; ++y)
          for (Index x = 0; x < s.in_x; ++x) by_input += static_cast<double>(input.at(n, i, y, x)) * delta_in.at(n, i, y, x);
    CHECK_SMALL(std::abs(by_weights - value), 1e-4 * (1 + std::abs(value)));
    CHECK_SMALL(std::abs(by_input - value), 1e-4 * (1 + std::abs(value)));
  }
}

// The definition itself, worked by hand: 2x2 image, 3x3 kernel, pad 1, and a stride-2 layer.
TEST_CASE("convolution: reference equals values worked by hand") {
  ThreadPool pool(1);
  Scratch scratch;
  const std::vector<float> weights{1, 2, 3, 4, 5, 6, 7, 8, 9};
  const auto check = [&](const ConvolutionShape& shape, const std::vector<float>& image, const std::vector<float>& result) {
    const auto convolution = make(Backend::kReference, shape, pool, scratch);
    const Box in = Box::whole(1, {1, shape.in_y, shape.in_x}), out = Box::whole(1, {1, shape.out_y(), shape.out_x()});
    std::vector<float> output(result.size());
    convolution->forward({image.data(), in}, weights.data(), {output.data(), out}, out);
    CHECK(output == result);
  };
  check({1, 2, 2, 1, 3, 1, 1}, {1, 10, 100, 1000},
        {9 * 1000 + 8 * 100 + 60 + 5, 7 * 100 + 8 * 1000 + 4 + 50, 2 + 30 + 500 + 6000, 1 + 20 + 400 + 5000});
  check({1, 3, 3, 1, 3, 2, 1}, {1, 0, 0, 0, 0, 0, 0, 0, 2}, {5, 0, 0, 10});
}

TEST_CASE("convolution: reference gradients against central differences") {
  for (unsigned seed = 1; seed <= 25; ++seed) {
    CAPTURE(seed);
    Random random(seed);
    const Case c = random_case(random, 3, 7);
    INFO(c.text());
    ThreadPool pool(1);
    Scratch scratch;
    const auto convolution = make(Backend::kReference, c.shape, pool, scratch);
    const Box in = Box::whole(c.batch, c.in_shape()), out = Box::whole(c.batch, c.out_shape());
    Tensor input(in), delta_out(out), delta_in(in), output(out);
    input.randomize(random);
    delta_out.randomize(random);
    auto weights = random_values(random, static_cast<std::size_t>(c.shape.weight_elements()));
    std::vector<float> gradient(weights.size());
    convolution->backward_data(delta_out.view(), weights.data(), delta_in.view(), in, false);
    convolution->backward_weights(input.view(), delta_out.view(), out, gradient.data());
    // Loss = sum of delta_out * output: linear in each argument, so a large step is exact up to rounding.
    const auto loss = [&] {
      convolution->forward(input.view(), weights.data(), output.view(), out);
      double sum = 0;
      for (Index i = 0; i < out.elements(); ++i) sum += static_cast<double>(output.view().data[i]) * delta_out.view().data[i];
      return sum;
    };
    const auto difference = [&](float& value) {
      const float kept = value;
      value = kept + .5f;
      const double up = loss();
      value = kept - .5f;
      const double down = loss();
      value = kept;
      return up - down;
    };
    for (Index i = 0; i < in.elements(); i += 1 + in.elements() / 20)
      CHECK_NEAR(delta_in.view().data[i], difference(input.view().data[i]), 1e-4);
    for (std::size_t i = 0; i < weights.size(); i += 1 + weights.size() / 20) CHECK_NEAR(gradient[i], difference(weights[i]), 1e-4);
  }
}

TEST_CASE("convolution: every backend equals the reference on random layers, boxes, views and threads") {
  for (const Backend backend : fast_backends())
    for (unsigned seed = 1; seed <= rounds(300); ++seed) {
      CAPTURE(seed);
      Random random(seed);
      const bool wide = seed % 10 == 0;  // more channels than one block or vector holds
      const Case c = random_case(random, wide ? 70 : 9, wide ? 20 : 40);
      check_case(backend, c, random, 1 + static_cast<int>(seed % 3));
    }
}

TEST_CASE("convolution: every kernel size, stride and pad on a tile inside the image and on the whole image") {
  for (const Backend backend : fast_backends())
    for (int kernel = rounds(7) < 7 ? 3 : 1; kernel <= (rounds(7) < 7 ? 3 : 7); ++kernel)
      for (int stride = 1; stride <= 3; ++stride)
        for (const int pad : {0, kernel / 2, kernel - 1}) {
          Random random(static_cast<unsigned>(kernel * 100 + stride * 10 + pad));
          Case c;
          c.shape = {3, 17, 19, 5, kernel, stride, pad};
          c.batch = 2;
          c.out = Box::whole(2, c.out_shape());
          c.in = Box::whole(2, c.in_shape());
          check_case(backend, c, random, 2);
          c.out.y = {c.shape.out_y() / 3, c.shape.out_y() - 1};
          c.out.x = {1, c.shape.out_x() - 1};
          c.in.y = {4, 11};
          c.in.x = {5, 16};
          check_case(backend, c, random, 2);
        }
}

// Layers as real networks have them, large enough that every kind of blocking is used more than once.
TEST_CASE("convolution: layers of real sizes") {
  const std::vector<std::pair<ConvolutionShape, Index>> layers{
      {{3, 120, 120, 16, 3, 1, 1}, 2}, {{16, 104, 104, 32, 3, 1, 1}, 1}, {{256, 13, 13, 130, 3, 1, 1}, 5}, {{200, 13, 13, 260, 1, 1, 0}, 4},
      {{64, 52, 52, 32, 1, 1, 0}, 2},  {{3, 112, 112, 40, 7, 2, 3}, 1},  {{48, 40, 40, 96, 3, 2, 1}, 3},   {{300, 7, 7, 70, 3, 1, 1}, 9},
  };
  for (const Backend backend : fast_backends()) {
    unsigned seed = 0;
    for (const auto& [shape, batch] : layers)
      for (const bool tile : {false, true}) {
        Random random(++seed);
        Case c;
        c.shape = shape;
        c.batch = batch;
        c.out = Box::whole(batch, c.out_shape());
        c.in = Box::whole(batch, c.in_shape());
        if (tile) {
          c.out.y.end = c.out.y.end * 2 / 3;
          c.out.x.begin = c.out.x.end / 2;
          c.in.y.begin = c.in.y.end / 2;
          c.in.x.end = c.in.x.end / 2 + 1;
        }
        CAPTURE(seed);
        check_case(backend, c, random, 2);
      }
  }
}

// Deep layers of small images, where libraries choose other layouts than for large maps.
TEST_CASE("convolution: many channels on small maps") {
  for (const Backend backend : fast_backends()) {
    unsigned seed = 0;
    for (const int kernel : {1, 3})
      for (const Index filters : {512, 1024})
        for (const Index side : {1, 3, 5}) {
          Random random(++seed);
          Case c;
          c.shape = {kernel == 1 ? 1024 : 128, side, side, filters, kernel, 1, kernel / 2};
          c.batch = 2;
          c.out = Box::whole(c.batch, c.out_shape());
          c.in = Box::whole(c.batch, c.in_shape());
          CAPTURE(seed);
          check_case(backend, c, random, 2);
        }
  }
}

// A gradient in several parts, the channels of which are no multiple of anything.
TEST_CASE("convolution: large gradients") {
  for (const Backend backend : fast_backends())
    for (const int threads : {1, 2, 3}) {
      Random random(static_cast<unsigned>(threads));
      Case c;
      c.shape = {201, 6, 5, 517, 3, 1, 1};
      c.batch = 3;
      c.out = Box::whole(c.batch, c.out_shape());
      c.in = Box::whole(c.batch, c.in_shape());
      CAPTURE(threads);
      check_case(backend, c, random, threads);
    }
}

// Winograd's algorithm within its bound of 1e-5 (check_case() asks for less), with everything that decides how it is cut: pads,
// boxes inside the image and at its border, some of the filters only, and maps that are transformed in several parts.
TEST_CASE("convolution: 3 x 3 layers with many channels equal the reference on random boxes") {
  for (const Backend backend : fast_backends()) {
    int used = 0;
    for (unsigned seed = 1; seed <= rounds(40); ++seed) {
      CAPTURE(seed);
      Random random(1000 + seed);
      Case c;
      const auto channels = [&] { return uniform(random, kWinogradLeastChannels, kWinogradLeastChannels + 41); };
      c.shape = {channels(), uniform(random, 8, 33), uniform(random, 8, 33), channels(), 3, 1, static_cast<int>(uniform(random, 0, 4))};
      c.batch = uniform(random, 2, 6);
      c.out = {
          random_range(random, c.batch), {0, c.shape.out_c}, random_range(random, c.shape.out_y()), random_range(random, c.shape.out_x())};
      c.in = {random_range(random, c.batch), {0, c.shape.in_c}, random_range(random, c.shape.in_y), random_range(random, c.shape.in_x)};
      used += winograd_pays(c.out, c.shape.in_c) + winograd_pays(c.in, c.shape.out_c);
      check_case(backend, c, random, 1 + static_cast<int>(seed % 5));
    }
    if (rounds(40) < 40) continue;
    CHECK(used >= 10);
    Random random(7);
    Case parts;
    parts.shape = {40, 104, 90, 33, 3, 1, 1};
    parts.batch = 3;
    parts.out = Box::whole(parts.batch, parts.out_shape());
    parts.in = Box::whole(parts.batch, parts.in_shape());
    check_case(backend, parts, random, 2);
  }
}

TEST_CASE("convolution: Winograd's algorithm computes what its share of products pays for") {
  CHECK(winograd_pays(Box::whole(8, {512, 13, 13}), 256));
  CHECK(!winograd_pays(Box::whole(8, {512, 1, 13}), 256));                          // half of each tile is thrown away
  CHECK(!winograd_pays(Box::whole(1, {512, 13, 13}), 256));                         // few tiles for transforming the weights
  CHECK(!winograd_pays(Box::whole(8, {512, 13, 13}), kWinogradLeastChannels - 1));  // few channels for transforming the input
  CHECK(!winograd_pays({}, 256));
}

TEST_CASE("convolution: the same call gives the same bits, run after run, whatever the views") {
  for (const Backend backend : fast_backends())
    for (unsigned seed = 1; seed <= 12; ++seed) {
      CAPTURE(seed);
      Random random(seed);
      const Case c = random_case(random, 40, 40);
      INFO(to_string(backend), " ", c.text());
      const auto weights = random_values(random, static_cast<std::size_t>(c.shape.weight_elements()));
      const Box whole_in = Box::whole(c.batch, c.in_shape()), whole_out = Box::whole(c.batch, c.out_shape());
      Tensor input(whole_in), delta(whole_out);
      input.randomize(random);
      delta.randomize(random);
      std::vector<float> first_gradient;
      Tensor first_output(c.out), first_delta(c.in);
      for (int run = 0; run < 4; ++run) {
        CAPTURE(run);
        ThreadPool pool(3);
        Scratch scratch;
        const auto convolution = make(backend, c.shape, pool, scratch);
        // Odd runs read from views that hold just what is needed, even ones from the whole tensors.
        const auto tight = [&](const Tensor& whole, const Box& box) {
          if (run % 2 == 0 || box.empty()) return whole;
          Tensor part(box);
          for (Index n = box.n.begin; n < box.n.end; ++n)
            for (Index k = box.c.begin; k < box.c.end; ++k)
              for (Index y = box.y.begin; y < box.y.end; ++y)
                for (Index x = box.x.begin; x < box.x.end; ++x) part.at(n, k, y, x) = whole.view().at(n, k, y, x);
          return part;
        };
        Tensor output(run < 2 ? c.out : whole_out), delta_in(run < 2 ? c.in : whole_in);
        const Tensor in_part = tight(input, c.input_needed());
        convolution->forward(in_part.view(), weights.data(), output.view(), c.out);
        convolution->backward_data(tight(delta, c.delta_needed({0, c.shape.out_c})).view(), weights.data(), delta_in.view(), c.in, false);
        std::vector<float> gradient(weights.size());
        convolution->backward_weights(in_part.view(), tight(delta, c.out).view(), c.out, gradient.data());
        if (run == 0) {
          first_output = output;
          first_delta = delta_in;
          first_gradient = gradient;
        }
        CHECK(relative_error(output.view(), first_output.view(), c.out) == 0);
        CHECK(relative_error(delta_in.view(), first_delta.view(), c.in) == 0);
        CHECK(gradient == first_gradient);
      }
    }
}

TEST_CASE("convolution: new weights are used after weights_changed(), packed ones kept or not") {
  for (const Backend backend : built_backends())
    for (const bool keep_packed : {false, true}) {
      INFO(to_string(backend), " keep_packed ", keep_packed);
      Random random(21);
      const ConvolutionShape shape{8, 12, 12, 40, 3, 1, 1};
      const Box box = Box::whole(1, {8, 12, 12}), out = Box::whole(1, {40, 12, 12});
      ThreadPool pool(2);
      Scratch scratch;
      auto made = make_convolution(backend, shape, pool, scratch, keep_packed);
      REQUIRE(made.has_value());
      Convolution& convolution = **made;
      const auto reference = make(Backend::kReference, shape, pool, scratch);
      Tensor input(box), delta_out(out), output(out), expected(out), delta_in(box), delta_expected(box);
      input.randomize(random);
      delta_out.randomize(random);
      auto weights = random_values(random, static_cast<std::size_t>(shape.weight_elements()));
      for (int update = 0; update < 3; ++update) {
        for (float& weight : weights) weight = -.5f * weight + .1f;
        convolution.weights_changed();
        for (int again = 0; again < 2; ++again) {
          convolution.forward(input.view(), weights.data(), output.view(), out);
          convolution.backward_data(delta_out.view(), weights.data(), delta_in.view(), box, false);
        }
        reference->forward(input.view(), weights.data(), expected.view(), out);
        reference->backward_data(delta_out.view(), weights.data(), delta_expected.view(), box, false);
        CHECK_SMALL(relative_error(output.view(), expected.view(), out), kTolerance);
        CHECK_SMALL(relative_error(delta_in.view(), delta_expected.view(), box), kTolerance);
      }
      const bool packs = backend == Backend::kOnednn && keep_packed;
      CHECK((convolution.resident_bytes() >= 2 * weights.size() * sizeof(float)) == packs);
      CHECK((convolution.resident_bytes() == 0) == !packs);
    }
}

TEST_CASE("convolution: conversions between layouts are counted, and each tensor is converted once a call, or never for 1 x 1") {
  ConvolutionShape shape;
  SUBCASE("3 x 3") { shape = {kWinogradLeastChannels - 8, 20, 20, 48, 3, 1, 1}; }
  SUBCASE("1 x 1") { shape = {32, 20, 20, 48, 1, 1, 0}; }
  const Box in = Box::whole(2, {shape.in_c, 20, 20}), out = Box::whole(2, {48, 20, 20});
  // Read and written, four bytes each.
  const auto tensors = 8 * static_cast<std::uint64_t>(in.elements() + out.elements());
  const auto weight_bytes = 8 * static_cast<std::uint64_t>(shape.weight_elements());
  Random random(8);
  Tensor input(in), output(out);
  input.randomize(random);
  const auto weights = random_values(random, static_cast<std::size_t>(shape.weight_elements()));
  std::vector<float> gradient(weights.size());
  for (const Backend backend : built_backends())
    for (const bool keep_packed : {false, true}) {
      INFO(to_string(backend), " keep_packed ", keep_packed);
      ThreadPool pool(2);
      Scratch scratch;
      auto made = make_convolution(backend, shape, pool, scratch, keep_packed);
      REQUIRE(made.has_value());
      Convolution& convolution = **made;
      const auto counted = [&](const auto& call) {
        const std::uint64_t before = convolution.conversion_bytes();
        call();
        return convolution.conversion_bytes() - before;
      };
      const auto forward = [&] { convolution.forward(input.view(), weights.data(), output.view(), out); };
      const auto data = [&](bool accumulate) { convolution.backward_data(output.view(), weights.data(), input.view(), in, accumulate); };
      const std::uint64_t first = counted(forward), again = counted(forward), written = counted([&] { data(false); }),
                          added = counted([&] { data(true); }),
                          of_weights = counted([&] { convolution.backward_weights(input.view(), output.view(), out, gradient.data()); });
      if (backend != Backend::kOnednn || shape.kernel == 1) {
        CHECK(first + again + written + added + of_weights == 0);
        continue;
      }
      // Where blocks meet, rows are converted for both; weights may be packed for two kinds of blocks, and their gradient
      // is converted for every block.
      const std::uint64_t packed = keep_packed ? 0 : weight_bytes, most = tensors * 5 / 4;
      CHECK(again >= packed + 8 * static_cast<std::uint64_t>(out.elements()));
      CHECK(again <= 2 * packed + most);
      CHECK(first >= again + (keep_packed ? weight_bytes : 0));
      if (!keep_packed) CHECK(first == again);
      // Packed for the first time here, too: compare with what is added, which is packed already where it is kept.
      CHECK(added + (keep_packed ? weight_bytes : 0) >= written);
      CHECK(added <= 2 * packed + most + 4 * static_cast<std::uint64_t>(in.elements()));
      CHECK(of_weights >= weight_bytes);
      CHECK(of_weights <= most + 8 * weight_bytes);
    }
}

// `threads=` of a cfg must hold: the libraries may not start threads beside the pool's.
TEST_CASE("convolution: backends run in the threads of the pool only") {
  const auto threads = [] {
    Index count = 0;
    for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) count += task.exists();
    return count;
  };
  const ConvolutionShape shape{64, 26, 26, 64, 3, 1, 1};
  const Box box = Box::whole(4, {64, 26, 26});
  Random random(2);
  Tensor input(box), output(box), delta(box);
  input.randomize(random);
  const auto weights = random_values(random, static_cast<std::size_t>(shape.weight_elements()));
  std::vector<float> gradient(weights.size());
  ThreadPool pool(3);
  Scratch scratch;
  const Index before = threads();
  for (const Backend backend : fast_backends()) {
    INFO(to_string(backend));
    const auto convolution = make(backend, shape, pool, scratch);
    convolution->forward(input.view(), weights.data(), output.view(), box);
    convolution->backward_data(output.view(), weights.data(), delta.view(), box, false);
    convolution->backward_weights(input.view(), output.view(), box, gradient.data());
    CHECK(threads() <= before);  // fewer when a thread of an earlier test was still leaving
  }
}

TEST_CASE("convolution: impossible layers and unknown backends are refused in words") {
  ThreadPool pool(1);
  Scratch scratch;
  const auto refused = make_convolution(Backend::kBlas, {3, 2, 2, 4, 5, 1, 0}, pool, scratch);
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().message.find("5x5") != std::string::npos);
  const auto unknown = backend_from_string("cuda");
  REQUIRE_FALSE(unknown.has_value());
  CHECK(unknown.error().message.find("cuda") != std::string::npos);
  for (const Backend backend : built_backends()) CHECK(*backend_from_string(to_string(backend)) == backend);
}

}  // namespace
}  // namespace tessera::kernels::test
