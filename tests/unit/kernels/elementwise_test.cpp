#include <doctest/doctest.h>

#include "base/thread_pool.hpp"
#include "kernels/elementwise.hpp"
#include "kernels/update.hpp"
#include "tests/unit/kernels/support.hpp"

namespace tessera::kernels::test {
namespace {

using base::ThreadPool;

Shape random_shape(Random& random) { return {uniform(random, 1, 6), uniform(random, 1, 30), uniform(random, 1, 30)}; }

Box random_box(Random& random, Index batch, const Shape& shape) {
  return {random_range(random, batch), random_range(random, shape.c), random_range(random, shape.y), random_range(random, shape.x)};
}

Box hull_of(Random& random, const Box& box, Index batch, const Shape& shape) {
  if (box.empty()) return {};
  return {random_hull(random, box.n, batch), random_hull(random, box.c, shape.c), random_hull(random, box.y, shape.y),
          random_hull(random, box.x, shape.x)};
}

template <typename Body>
void for_cells(const Box& box, const Body& body) {
  for (Index n = box.n.begin; n < box.n.end; ++n)
    for (Index c = box.c.begin; c < box.c.end; ++c)
      for (Index y = box.y.begin; y < box.y.end; ++y)
        for (Index x = box.x.begin; x < box.x.end; ++x) body(n, c, y, x);
}

TEST_CASE("boxes: fill, copy, add, pack, unpack and unpack_add touch exactly the box") {
  for (unsigned seed = 1; seed <= 200; ++seed) {
    CAPTURE(seed);
    Random random(seed);
    const Index batch = uniform(random, 1, 3);
    const Shape shape = random_shape(random);
    const Box box = random_box(random, batch, shape);
    CAPTURE(to_string(box));
    ThreadPool pool(1 + static_cast<int>(seed % 3));
    Tensor source(hull_of(random, box, batch, shape)), target(hull_of(random, box, batch, shape));
    source.randomize(random, box);
    target.randomize(random, box);
    const Tensor before = target;
    Tensor expected = target;
    const auto check = [&](const Tensor& got) {
      CHECK(got.same_outside(before, box));
      CHECK(relative_error(got.view(), expected.view(), box) == 0);
    };

    Tensor result = before;
    fill(result.view(), box, 3, pool);
    expected.set(box, 3);
    check(result);

    result = before;
    copy(source.view(), result.view(), box, pool);
    for_cells(box, [&](Index n, Index c, Index y, Index x) { expected.at(n, c, y, x) = source.at(n, c, y, x); });
    check(result);

    // One byte off alignment, as a payload in a frame may be.
    std::vector<std::byte> bytes(static_cast<std::size_t>(box.elements()) * sizeof(float) + 2, std::byte{0x5a});
    const std::span<std::byte> payload = std::span(bytes).subspan(1, bytes.size() - 2);
    pack(source.view(), box, payload, pool);
    CHECK(bytes.front() == std::byte{0x5a});
    CHECK(bytes.back() == std::byte{0x5a});
    result = before;
    unpack(payload, result.view(), box, pool);
    check(result);

    expected = before;
    for_cells(box, [&](Index n, Index c, Index y, Index x) { expected.at(n, c, y, x) += .5f * source.at(n, c, y, x); });
    result = before;
    add(source.view(), result.view(), box, .5f, pool);
    check(result);

    expected = before;
    for_cells(box, [&](Index n, Index c, Index y, Index x) { expected.at(n, c, y, x) += source.at(n, c, y, x); });
    result = before;
    unpack_add(payload, result.view(), box, pool);
    check(result);
  }
}

TEST_CASE("route: channels move by the offset, backward adds or overwrites") {
  for (unsigned seed = 1; seed <= 100; ++seed) {
    CAPTURE(seed);
    Random random(seed);
    const Index batch = uniform(random, 1, 3), offset = uniform(random, 0, 5), more = uniform(random, 0, 3);
    const Shape in = random_shape(random), out{in.c + offset + more, in.y, in.x};
    const Box in_box = random_box(random, batch, in);
    const Box out_box{in_box.n, {in_box.c.begin + offset, in_box.c.end + offset}, in_box.y, in_box.x};
    ThreadPool pool(2);
    Tensor input(hull_of(random, in_box, batch, in)), output(hull_of(random, out_box, batch, out));
    input.randomize(random, in_box);
    Tensor before = output;
    route_forward(input.view(), offset, output.view(), out_box, pool);
    CHECK(output.same_outside(before, out_box));
    bool equal = true;
    for_cells(in_box, [&](Index n, Index c, Index y, Index x) { equal = equal && output.at(n, c + offset, y, x) == input.at(n, c, y, x); });
    CHECK(equal);

    Tensor delta_in(input.box());
    delta_in.randomize(random, in_box);
    before = delta_in;
    const bool accumulate = seed % 2 == 0;
    route_backward(output.view(), offset, {0, in.c}, delta_in.view(), in_box, accumulate, pool);
    CHECK(delta_in.same_outside(before, in_box));
    for_cells(in_box, [&](Index n, Index c, Index y, Index x) {
      equal = equal && delta_in.at(n, c, y, x) == (accumulate ? before.at(n, c, y, x) : 0) + output.at(n, c + offset, y, x);
    });
    CHECK(equal);

    // Of a group: other channels get nothing.
    const Range group = random_range(random, in.c);
    before = delta_in;
    route_backward(output.view(), offset, group, delta_in.view(), in_box, accumulate, pool);
    for_cells(in_box, [&](Index n, Index c, Index y, Index x) {
      const float part = group.contains({c, c + 1}) ? output.at(n, c + offset, y, x) : 0;
      equal = equal && delta_in.at(n, c, y, x) == (accumulate ? before.at(n, c, y, x) : 0) + part;
    });
    CHECK(equal);
  }
}

// Darknet's shortcut_cpu as pairs of cells: calls body(out cell, from cell).
template <typename Body>
void for_pairs(const ShortcutShape& s, Index batch, const Body& body) {
  const Index stride = std::max<Index>(1, s.from.x / s.out.x), sample = std::max<Index>(1, s.out.x / s.from.x);
  for_cells({{0, batch}, {0, std::min(s.from.c, s.out.c)}, {0, std::min(s.from.y, s.out.y)}, {0, std::min(s.from.x, s.out.x)}},
            [&](Index n, Index c, Index j, Index i) { body(n, c, j * sample, i * sample, j * stride, i * stride); });
}

TEST_CASE("shortcut: any sizes, scales and boxes as Darknet's loops") {
  for (unsigned seed = 1; seed <= 200; ++seed) {
    CAPTURE(seed);
    Random random(seed);
    const Index batch = uniform(random, 1, 2), factor = uniform(random, 1, 3);
    ShortcutShape s;
    s.out = random_shape(random);
    s.from = s.out;
    s.from.c = uniform(random, 1, 6);
    if (seed % 3 == 1) s.from = {s.from.c, s.out.y * factor, s.out.x * factor};
    if (seed % 3 == 2) {
      s.from = {s.from.c, s.out.y, s.out.x};
      s.out = {s.out.c, s.out.y * factor, s.out.x * factor};
    }
    s.alpha = uniform(random, 0, 1) == 0 ? 1.f : .7f;
    s.beta = uniform(random, 0, 1) == 0 ? 1.f : -.4f;
    INFO("from ", s.from.c, "x", s.from.y, "x", s.from.x, " out ", s.out.c, "x", s.out.y, "x", s.out.x);
    ThreadPool pool(1 + static_cast<int>(seed % 2));
    Tensor input(Box::whole(batch, s.out)), from(Box::whole(batch, s.from));
    input.randomize(random);
    from.randomize(random);
    Tensor expected = input;
    for_pairs(s, batch, [&](Index n, Index c, Index y, Index x, Index from_y, Index from_x) {
      expected.at(n, c, y, x) = s.alpha * expected.at(n, c, y, x) + s.beta * from.at(n, c, from_y, from_x);
    });
    const Box box = random_box(random, batch, s.out);
    CAPTURE(to_string(box));
    const Box needed = shortcut_from_box(s, box);
    Tensor part(hull_of(random, needed, batch, s.from));
    for_cells(needed, [&](Index n, Index c, Index y, Index x) { part.at(n, c, y, x) = from.at(n, c, y, x); });
    Tensor output(hull_of(random, box, batch, s.out));
    Tensor before = output;
    shortcut_forward(s, input.view(), part.view(), output.view(), box, pool);
    CHECK(output.same_outside(before, box));
    CHECK(relative_error(output.view(), expected.view(), box) == 0);
    Tensor in_place = input;
    shortcut_forward(s, in_place.view(), part.view(), in_place.view(), box, pool);
    CHECK(in_place.same_outside(input, box));
    CHECK(relative_error(in_place.view(), expected.view(), box) == 0);

    // Backward to the layer's own input: every cell, alpha.
    const bool accumulate = seed % 2 == 0;
    Tensor delta(Box::whole(batch, s.out)), delta_in(output.box());
    delta.randomize(random);
    delta_in.randomize(random, box);
    before = delta_in;
    shortcut_backward_input(s, delta.view(), delta_in.view(), box, accumulate, pool);
    CHECK(delta_in.same_outside(before, box));
    bool equal = true;
    for_cells(box, [&](Index n, Index c, Index y, Index x) {
      equal = equal && delta_in.at(n, c, y, x) == (accumulate ? before.at(n, c, y, x) : 0) + s.alpha * delta.at(n, c, y, x);
    });
    CHECK(equal);

    // Backward to `from`: paired cells, beta.
    const Box from_box = random_box(random, batch, s.from);
    CAPTURE(to_string(from_box));
    const Box delta_needed = shortcut_out_box(s, from_box);
    Tensor delta_part(hull_of(random, delta_needed, batch, s.out));
    for_cells(delta_needed, [&](Index n, Index c, Index y, Index x) { delta_part.at(n, c, y, x) = delta.at(n, c, y, x); });
    Tensor delta_from(hull_of(random, from_box, batch, s.from));
    delta_from.randomize(random, from_box);
    before = delta_from;
    Tensor want(Box::whole(batch, s.from));
    want.set(want.box(), 0);
    if (accumulate) for_cells(from_box, [&](Index n, Index c, Index y, Index x) { want.at(n, c, y, x) = before.at(n, c, y, x); });
    for_pairs(s, batch, [&](Index n, Index c, Index y, Index x, Index from_y, Index from_x) {
      want.at(n, c, from_y, from_x) += s.beta * delta.at(n, c, y, x);
    });
    shortcut_backward_from(s, delta_part.view(), delta_from.view(), from_box, accumulate, pool);
    CHECK(delta_from.same_outside(before, from_box));
    CHECK(relative_error(delta_from.view(), want.view(), from_box) == 0);
  }
}

TEST_CASE("upsample and its reverse: forward, and backward as the transposed map") {
  for (unsigned seed = 1; seed <= 100; ++seed) {
    CAPTURE(seed);
    Random random(seed);
    const Index batch = uniform(random, 1, 2);
    const UpsampleShape up{static_cast<int>(uniform(random, 1, 3)), .75f, seed % 3 == 0};
    const Shape small = random_shape(random), large{small.c, small.y * up.stride, small.x * up.stride};
    const Shape in = up.reverse ? large : small, out = up.reverse ? small : large;
    ThreadPool pool(2);
    Tensor input(Box::whole(batch, in)), delta_out(Box::whole(batch, out));
    input.randomize(random);
    delta_out.randomize(random);
    Tensor expected(Box::whole(batch, out)), want(Box::whole(batch, in));
    const Box in_box = random_box(random, batch, in), out_box = random_box(random, batch, out);
    Tensor output(hull_of(random, out_box, batch, out)), delta_in(hull_of(random, in_box, batch, in));
    delta_in.randomize(random, in_box);
    const Tensor output_before = output, delta_before = delta_in;
    const bool accumulate = seed % 2 == 0;
    expected.set(expected.box(), 0);
    want.set(want.box(), 0);
    if (accumulate) for_cells(in_box, [&](Index n, Index c, Index y, Index x) { want.at(n, c, y, x) = delta_in.at(n, c, y, x); });
    for_cells(Box::whole(batch, large), [&](Index n, Index c, Index y, Index x) {
      const Index sy = y / up.stride, sx = x / up.stride;
      if (up.reverse) {
        expected.at(n, c, sy, sx) += up.scale * input.at(n, c, y, x);
        want.at(n, c, y, x) += up.scale * delta_out.at(n, c, sy, sx);
      } else {
        expected.at(n, c, y, x) = up.scale * input.at(n, c, sy, sx);
        want.at(n, c, sy, sx) += up.scale * delta_out.at(n, c, y, x);
      }
    });
    upsample_forward(up, input.view(), output.view(), out_box, pool);
    upsample_backward(up, delta_out.view(), delta_in.view(), in_box, accumulate, pool);
    CHECK(output.same_outside(output_before, out_box));
    CHECK(delta_in.same_outside(delta_before, in_box));
    CHECK(relative_error(output.view(), expected.view(), out_box) <= 1e-7);
    CHECK(relative_error(delta_in.view(), want.view(), in_box) <= 1e-7);
  }
}

// The linear offsets Darknet's reorg_cpu pairs, for one sample: (deep, wide), worked with plain loops.
std::vector<std::pair<Index, Index>> reorg_pairs(const Shape& in, Index stride) {
  std::vector<std::pair<Index, Index>> pairs;
  const Index out_c = in.c / (stride * stride);
  for (Index k = 0; k < in.c; ++k)
    for (Index j = 0; j < in.y; ++j)
      for (Index i = 0; i < in.x; ++i) {
        const Index x2 = i * stride + k / out_c % stride, y2 = j * stride + k / out_c / stride;
        pairs.emplace_back(i + in.x * (j + in.y * k), x2 + in.x * stride * (y2 + in.y * stride * (k % out_c)));
      }
  return pairs;
}

TEST_CASE("reorg: Darknet's permutation both ways, on boxes; source and target are inverse") {
  for (unsigned seed = 1; seed <= 120; ++seed) {
    CAPTURE(seed);
    Random random(seed);
    const Index batch = uniform(random, 1, 2);
    ReorgShape shape;
    shape.stride = static_cast<int>(uniform(random, 1, 3));
    shape.reverse = seed % 2 == 0;
    shape.in = {uniform(random, 1, 3) * shape.stride * shape.stride, uniform(random, 1, 5), uniform(random, 1, 5)};
    if (!shape.reverse) shape.in = {shape.in.c, shape.in.y * shape.stride, shape.in.x * shape.stride};
    REQUIRE(shape.valid());
    const Shape out = shape.out();
    ThreadPool pool(2);
    Tensor input(Box::whole(batch, shape.in)), expected(Box::whole(batch, out));
    input.randomize(random);
    const Index size = shape.in.elements();
    for (Index n = 0; n < batch; ++n)
      for (const auto& [deep, wide] : reorg_pairs(shape.in, shape.stride))
        expected.view().data[n * size + (shape.reverse ? wide : deep)] = input.view().data[n * size + (shape.reverse ? deep : wide)];
    const Box box = random_box(random, batch, out), source_box = reorg_source_box(shape, box);
    Tensor part(source_box);
    for_cells(source_box, [&](Index n, Index c, Index y, Index x) { part.at(n, c, y, x) = input.at(n, c, y, x); });
    Tensor output(hull_of(random, box, batch, out));
    const Tensor before = output;
    reorg_forward(shape, part.view(), output.view(), box, pool);
    CHECK(output.same_outside(before, box));
    CHECK(relative_error(output.view(), expected.view(), box) == 0);

    // Backward is the inverse permutation and overwrites: it brings the input back.
    const Box in_box = random_box(random, batch, shape.in), target_box = reorg_target_box(shape, in_box);
    Tensor delta_out(target_box), delta_in(hull_of(random, in_box, batch, shape.in));
    for_cells(target_box, [&](Index n, Index c, Index y, Index x) { delta_out.at(n, c, y, x) = expected.at(n, c, y, x); });
    delta_in.randomize(random, in_box);
    const Tensor delta_before = delta_in;
    reorg_backward(shape, delta_out.view(), delta_in.view(), in_box, pool);
    CHECK(delta_in.same_outside(delta_before, in_box));
    CHECK(relative_error(delta_in.view(), input.view(), in_box) == 0);
    bool inverse = true;
    for_cells(Box::whole(1, out), [&](Index, Index c, Index y, Index x) {
      inverse = inverse && reorg_target(shape, reorg_source(shape, {c, y, x})) == Cell{c, y, x};
    });
    CHECK(inverse);
  }
  CHECK_FALSE(ReorgShape{{3, 4, 4}, 2, false}.valid());
  CHECK_FALSE(ReorgShape{{4, 5, 4}, 2, false}.valid());
}

TEST_CASE("update: Darknet's momentum and decay, bit-identical for any threads and any cut") {
  Random random(9);
  const std::size_t count = 200003;
  const UpdateParameters parameters{.01f, .9f, .0005f, 64};
  const auto start = random_values(random, count), gradient = random_values(random, count, -50, 50);
  std::vector<float> weights = start, updates(count), biases = start, bias_updates(count);
  std::vector<double> w(start.begin(), start.end()), u(count), b(start.begin(), start.end()), v(count);
  ThreadPool pool(2);
  for (int step = 0; step < 3; ++step) {
    update_weights(parameters, weights, updates, gradient, pool);
    update_biases(parameters, biases, bias_updates, gradient, pool);
    for (std::size_t i = 0; i < count; ++i) {
      // axpy(-decay * batch, weights, updates); axpy(rate / batch, updates, weights); scal(momentum, updates)
      u[i] += gradient[i];
      u[i] += -.0005 * 64 * w[i];
      w[i] += .01 / 64 * u[i];
      u[i] *= .9;
      v[i] += gradient[i];
      b[i] += .01 / 64 * v[i];
      v[i] *= .9;
    }
  }
  const auto check = [&](const std::vector<float>& got, const std::vector<double>& expected) {
    CHECK_SMALL(relative_error(got, std::vector<float>(expected.begin(), expected.end())), 1e-6);
  };
  check(weights, w);
  check(updates, u);
  check(biases, b);
  check(bias_updates, v);

  ThreadPool three(3);
  std::vector<float> again = start, again_updates(count);
  for (int step = 0; step < 3; ++step)
    for (const auto& [begin, end] : {std::pair<std::size_t, std::size_t>{0, 7}, {7, 70001}, {70001, count}}) {
      const std::size_t size = end - begin;
      update_weights(parameters, std::span(again).subspan(begin, size), std::span(again_updates).subspan(begin, size),
                     std::span(gradient).subspan(begin, size), three);
    }
  CHECK(again == weights);
  CHECK(again_updates == updates);
}

}  // namespace
}  // namespace tessera::kernels::test
