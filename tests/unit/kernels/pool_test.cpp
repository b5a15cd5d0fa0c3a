#include <doctest/doctest.h>

#include <cfloat>

#include "base/thread_pool.hpp"
#include "kernels/pool.hpp"
#include "tests/unit/kernels/support.hpp"

namespace tessera::kernels::test {
namespace {

using base::ThreadPool;

struct Case {
  PoolShape shape;
  Index batch, channels;
  Box out;  // the outputs computed

  Shape in() const { return {channels, shape.in_y, shape.in_x}; }
  Box needed() const {
    return {out.n, out.c, input_range(shape.rows(), out.y, shape.in_y), input_range(shape.columns(), out.x, shape.in_x)};
  }
};

Case random_case(Random& random) {
  Case c;
  constexpr int kSizes[] = {1, 2, 2, 3, 5, 7, 13};
  do {
    c.shape = {uniform(random, 1, 40), uniform(random, 1, 40), kSizes[uniform(random, 0, 6)], static_cast<int>(uniform(random, 1, 3)), 0};
    c.shape.pad = uniform(random, 0, 3) == 0 ? static_cast<int>(uniform(random, 0, c.shape.size)) : c.shape.size - 1;
  } while (c.shape.in_y + c.shape.pad < c.shape.size || c.shape.in_x + c.shape.pad < c.shape.size);
  if (uniform(random, 0, 3) == 0) c.shape.stride_x = static_cast<int>(uniform(random, 1, 3));
  c.batch = uniform(random, 1, 2);
  c.channels = uniform(random, 1, 3);
  c.out = {random_range(random, c.batch), random_range(random, c.channels), random_range(random, c.shape.out_y()),
           random_range(random, c.shape.out_x())};
  return c;
}

// Darknet's loop: value and place of the first maximum of one window, on the whole input.
std::pair<float, int> maximum(const PoolShape& shape, Tensor& input, Index n, Index c, Index y, Index x) {
  float best = -FLT_MAX;
  int place = kNoWinner;
  for (int dy = 0; dy < shape.size; ++dy)
    for (int dx = 0; dx < shape.size; ++dx) {
      const Index in_y = y * shape.stride - shape.pad / 2 + dy, in_x = x * shape.columns().stride - shape.pad / 2 + dx;
      if (in_y < 0 || in_y >= shape.in_y || in_x < 0 || in_x >= shape.in_x) continue;
      if (input.at(n, c, in_y, in_x) > best) {
        best = input.at(n, c, in_y, in_x);
        place = dy * shape.size + dx;
      }
    }
  return {best, place};
}

struct Places {
  explicit Places(const Box& box) : cells(static_cast<std::size_t>(box.elements()), 254), box(box) {}
  IndexView view() { return {cells.data(), box}; }
  std::vector<std::uint8_t> cells;
  Box box;
};

TEST_CASE("maxpool: windows equal brute force") {
  for (unsigned seed = 1; seed <= 300; ++seed) {
    CAPTURE(seed);
    Random random(seed);
    const Case c = random_case(random);
    const auto meets = [&](Index o, Index i) {
      const Index begin = o * c.shape.stride - c.shape.pad / 2;
      return i >= begin && i < begin + c.shape.size;
    };
    const Range in = random_range(random, c.shape.in_y);
    Range inputs, outputs;
    for (Index o = 0; o < c.shape.out_y(); ++o)
      for (Index i = 0; i < c.shape.in_y; ++i) {
        if (!meets(o, i)) continue;
        if (o >= c.out.y.begin && o < c.out.y.end) inputs = geometry::hull(inputs, {i, i + 1});
        if (i >= in.begin && i < in.end) outputs = geometry::hull(outputs, {o, o + 1});
      }
    // Windows may be wider than what is met (gaps between windows when stride > size), never narrower.
    CHECK(input_range(c.shape.rows(), c.out.y, c.shape.in_y).contains(inputs));
    CHECK(output_range(c.shape.rows(), in, c.shape.out_y()).contains(outputs));
    if (c.shape.size >= c.shape.stride) {
      CHECK(input_range(c.shape.rows(), c.out.y, c.shape.in_y) == inputs);
      CHECK(output_range(c.shape.rows(), in, c.shape.out_y()) == outputs);
    }
  }
}

TEST_CASE("maxpool: forward and backward on boxes equal Darknet's loops") {
  for (unsigned seed = 1; seed <= 400; ++seed) {
    Random random(seed);
    const Case c = random_case(random);
    INFO("seed ", seed, " in ", c.shape.in_y, "x", c.shape.in_x, " size ", c.shape.size, " stride ", c.shape.stride, " pad ", c.shape.pad,
         " out ", to_string(c.out));
    ThreadPool pool(1 + static_cast<int>(seed % 3));
    Tensor input(Box::whole(c.batch, c.in()));
    // Few different values, so that ties occur and the first maximum matters.
    input.each(input.box(), [&](float& cell) { cell = static_cast<float>(uniform(random, -3, 3)); });
    const Box needed = c.needed();
    Tensor tile(Box{random_hull(random, c.out.n, c.batch), random_hull(random, c.out.c, c.channels),
                    random_hull(random, needed.y, c.shape.in_y), random_hull(random, needed.x, c.shape.in_x)});
    tile.each(tile.box(), [](float& cell) { cell = FLT_MAX; });  // cells that must not be read would win
    for (Index n = needed.n.begin; n < needed.n.end; ++n)
      for (Index k = needed.c.begin; k < needed.c.end; ++k)
        for (Index y = needed.y.begin; y < needed.y.end; ++y)
          for (Index x = needed.x.begin; x < needed.x.end; ++x) tile.at(n, k, y, x) = input.at(n, k, y, x);
    Tensor output(Box{c.out.n, random_hull(random, c.out.c, c.channels), random_hull(random, c.out.y, c.shape.out_y()),
                      random_hull(random, c.out.x, c.shape.out_x())});
    const Tensor before = output;
    Places places(output.box());
    maxpool_forward(c.shape, tile.view(), output.view(), places.view(), c.out, pool);
    CHECK(output.same_outside(before, c.out));
    bool equal = true;
    Index untouched = 0;
    for (std::size_t i = 0; i < places.cells.size(); ++i) untouched += places.cells[i] == 254;
    CHECK(untouched == output.box().elements() - c.out.elements());
    for (Index n = c.out.n.begin; n < c.out.n.end; ++n)
      for (Index k = c.out.c.begin; k < c.out.c.end; ++k)
        for (Index y = c.out.y.begin; y < c.out.y.end; ++y)
          for (Index x = c.out.x.begin; x < c.out.x.end; ++x) {
            const auto [value, place] = maximum(c.shape, input, n, k, y, x);
            equal = equal && output.at(n, k, y, x) == value && places.view().at(n, k, y, x) == place;
          }
    CHECK(equal);
    Tensor silent = before;
    maxpool_forward(c.shape, tile.view(), silent.view(), IndexView{}, c.out, pool);
    CHECK(silent.same_bits(output));

    // Backward: all outputs as computed above on the whole map, deltas flow to a random box of the input.
    const Box all{{0, c.batch}, {0, c.channels}, {0, c.shape.out_y()}, {0, c.shape.out_x()}};
    Tensor whole_out(all);
    Places whole_places(all);
    maxpool_forward(c.shape, input.view(), whole_out.view(), whole_places.view(), all, pool);
    const Box compute{random_range(random, c.batch), random_range(random, c.channels), random_range(random, c.shape.in_y),
                      random_range(random, c.shape.in_x)};
    INFO("compute ", to_string(compute));
    const bool accumulate = seed % 2 == 0;
    const Range out_y = output_range(c.shape.rows(), compute.y, c.shape.out_y());
    const Range out_x = output_range(c.shape.columns(), compute.x, c.shape.out_x());
    Tensor delta_out(all), delta_in(Box{random_hull(random, compute.n, c.batch), random_hull(random, compute.c, c.channels),
                                        random_hull(random, compute.y, c.shape.in_y), random_hull(random, compute.x, c.shape.in_x)});
    delta_out.randomize(random, {compute.n, compute.c, out_y, out_x});
    if (accumulate) delta_in.randomize(random, compute);
    const Tensor delta_before = delta_in;
    Tensor expected = delta_in;
    if (!accumulate) expected.set(compute, 0);
    for (Index n = compute.n.begin; n < compute.n.end; ++n)
      for (Index k = compute.c.begin; k < compute.c.end; ++k)
        for (Index y = out_y.begin; y < out_y.end; ++y)
          for (Index x = out_x.begin; x < out_x.end; ++x) {
            const int place = whole_places.view().at(n, k, y, x);
            if (place == kNoWinner) continue;
            const Index in_y = y * c.shape.stride - c.shape.pad / 2 + place / c.shape.size;
            const Index in_x = x * c.shape.columns().stride - c.shape.pad / 2 + place % c.shape.size;
            if (compute.contains(Box{{n, n + 1}, {k, k + 1}, {in_y, in_y + 1}, {in_x, in_x + 1}}))
              expected.at(n, k, in_y, in_x) += delta_out.at(n, k, y, x);
          }
    maxpool_backward(c.shape, delta_out.view(), whole_places.view(), delta_in.view(), compute, accumulate, pool);
    CHECK(delta_in.same_outside(delta_before, compute));
    CHECK(relative_error(delta_in.view(), expected.view(), compute) == 0);
  }
}

TEST_CASE("maxpool: normalising while pooling gives the bits of normalising before") {
  for (unsigned seed = 1; seed <= 300; ++seed) {
    Random random(seed);
    const Case c = random_case(random);
    INFO("seed ", seed, " in ", c.shape.in_y, "x", c.shape.in_x, " size ", c.shape.size, " stride ", c.shape.stride, " pad ", c.shape.pad,
         " out ", to_string(c.out));
    ThreadPool pool(1 + static_cast<int>(seed % 3));
    const auto channels = static_cast<std::size_t>(c.channels);
    std::vector<float> mean(channels), variance(channels), scales(channels), biases(channels);
    for (std::size_t k = 0; k < channels; ++k) {
      mean[k] = static_cast<float>(uniform(random, -30, 30)) / 10, biases[k] = static_cast<float>(uniform(random, -30, 30)) / 10;
      variance[k] = static_cast<float>(uniform(random, 1, 40)) / 10, scales[k] = static_cast<float>(uniform(random, -20, 20)) / 10;
    }
    const NormParameters norm{mean.data(), variance.data(), scales.data(), biases.data(),
                              seed % 2 == 0 ? Activation::kLeaky : Activation::kLogistic};
    const Box needed = c.needed();
    Tensor x(Box{random_hull(random, c.out.n, c.batch), random_hull(random, c.out.c, c.channels),
                 random_hull(random, needed.y, c.shape.in_y), random_hull(random, needed.x, c.shape.in_x)});
    x.each(x.box(), [](float& cell) { cell = std::numeric_limits<float>::quiet_NaN(); });  // what must not be read
    x.randomize(random, needed);
    Tensor active = x, output(c.out), expected(c.out);
    normalize_activate(x.view(), norm, active.view(), needed, pool);
    Places places(c.out), expected_places(c.out);
    maxpool_forward(c.shape, active.view(), expected.view(), expected_places.view(), c.out, pool);
    normalize_maxpool_forward(c.shape, x.view(), norm, output.view(), places.view(), c.out, pool);
    CHECK(output.same_bits(expected));
    CHECK(places.cells == expected_places.cells);
    normalize_maxpool_forward(c.shape, x.view(), norm, output.view(), IndexView{}, c.out, pool);
    CHECK(output.same_bits(expected));
  }
}

TEST_CASE("maxpool: a window of NaN has no winner and passes no delta on") {
  ThreadPool pool(1);
  const PoolShape shape{2, 4, 2, 2, 1};
  const Box in = Box::whole(1, {1, 2, 4}), out = Box::whole(1, {1, 1, 2});
  Tensor input(in), output(out), delta_out(out), delta_in(in);
  input.set({{0, 1}, {0, 1}, {0, 2}, {2, 4}}, 1);  // the left window stays NaN
  Places places(out);
  maxpool_forward(shape, input.view(), output.view(), places.view(), out, pool);
  CHECK(output.at(0, 0, 0, 0) == -FLT_MAX);
  CHECK(places.cells[0] == kNoWinner);
  CHECK(output.at(0, 0, 0, 1) == 1);
  delta_out.set(out, 5);
  maxpool_backward(shape, delta_out.view(), places.view(), delta_in.view(), in, false, pool);
  double sum = 0;
  delta_in.each(in, [&](float cell) { sum += cell; });
  CHECK(sum == 5);

  // Overlapping windows, on an image large enough for kNoWinner to look like a place in it.
  const PoolShape overlapping{300, 3, 2, 1, 1};
  const Box tall = Box::whole(1, {1, 300, 3});
  Tensor poison(tall), result(tall), deltas(tall), gathered(tall);
  Places none(tall);
  maxpool_forward(overlapping, poison.view(), result.view(), none.view(), tall, pool);
  deltas.set(tall, 1);
  maxpool_backward(overlapping, deltas.view(), none.view(), gathered.view(), tall, false, pool);
  bool silent = true;
  gathered.each(tall, [&](float cell) { silent = silent && cell == 0; });
  CHECK(silent);
}

TEST_CASE("maxpool: gradient against central differences") {
  Random random(5);
  for (const PoolShape shape :
       {PoolShape{9, 11, 2, 2, 1}, PoolShape{9, 11, 2, 1, 1}, PoolShape{9, 11, 5, 1, 4}, PoolShape{9, 11, 3, 2, 2}}) {
    CAPTURE(shape.size);
    CAPTURE(shape.stride);
    ThreadPool pool(2);
    const Box in = Box::whole(1, {2, 9, 11}), out = Box::whole(1, {2, shape.out_y(), shape.out_x()});
    Tensor input(in), output(out), weights(out), delta(in);
    // Values at least 0.01 apart, so that a small step never changes the winner.
    std::vector<float> values(static_cast<std::size_t>(in.elements()));
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) * .01f;
    std::shuffle(values.begin(), values.end(), random);
    std::size_t next = 0;
    input.each(in, [&](float& cell) { cell = values[next++]; });
    weights.randomize(random);
    Places places(out);
    maxpool_forward(shape, input.view(), output.view(), places.view(), out, pool);
    maxpool_backward(shape, weights.view(), places.view(), delta.view(), in, false, pool);
    const auto loss = [&](Tensor& changed) {
      maxpool_forward(shape, changed.view(), output.view(), IndexView{}, out, pool);
      double sum = 0;
      for (Index i = 0; i < out.elements(); ++i) sum += static_cast<double>(output.view().data[i]) * weights.view().data[i];
      return sum;
    };
    for (Index i = 0; i < in.elements(); ++i) {
      CAPTURE(i);
      Tensor up = input, down = input;
      up.view().data[i] += .002f;
      down.view().data[i] -= .002f;
      CHECK_NEAR(delta.view().data[i], (loss(up) - loss(down)) / .004, 2e-3);
    }
  }
}

}  // namespace
}  // namespace tessera::kernels::test
