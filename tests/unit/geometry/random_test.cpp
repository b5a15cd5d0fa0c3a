// Boxes, windows and cuts against counting cells.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <tuple>

#include "geometry/partition.hpp"
#include "geometry/window.hpp"
#include "tests/support/random.hpp"
#include "tests/support/seed.hpp"

using namespace tessera;
using geometry::Box;
using geometry::Index;
using geometry::Range;
using testing::Rng;

namespace {

Range random_range(Rng& rng, int size) {
  const int a = rng.between(0, size), b = rng.between(0, size);
  if (rng.chance(0.03)) return {std::max(a, b), std::min(a, b)};  // empty
  return {std::min(a, b), std::max(a, b) + 1};
}

Box random_box(Rng& rng) { return {random_range(rng, 2), random_range(rng, 2), random_range(rng, 4), random_range(rng, 4)}; }

using Cells = std::multiset<std::tuple<Index, Index, Index, Index>>;

Cells cells(const std::vector<Box>& boxes) {
  Cells result;
  for (const Box& b : boxes)
    for (Index n = b.n.begin; n < b.n.end; ++n)
      for (Index c = b.c.begin; c < b.c.end; ++c)
        for (Index y = b.y.begin; y < b.y.end; ++y)
          for (Index x = b.x.begin; x < b.x.end; ++x) result.insert({n, c, y, x});
  return result;
}

}  // namespace

TEST_CASE("subtract gives disjoint boxes with exactly the cells that are left") {
  Rng rng(testing::seed());
  for (int i = 0; i < 10000; ++i) {
    CAPTURE(i);
    const Box a = random_box(rng);
    std::vector<Box> holes;
    for (int hole = rng.between(0, 3); hole > 0; --hole) holes.push_back(random_box(rng));
    const auto rest = geometry::subtract(a, holes);
    Cells expected = cells({a});
    for (const auto& cell : cells(holes)) expected.erase(cell);
    REQUIRE(cells(rest) == expected);
    for (const Box& box : rest) REQUIRE(!box.empty());
    if (holes.size() == 1) REQUIRE(rest.size() <= 8);
  }
}

TEST_CASE("intersect, hull and contains agree with the cells") {
  Rng rng(testing::seed() + 1);
  for (int i = 0; i < 10000; ++i) {
    const Box a = random_box(rng), b = random_box(rng);
    CAPTURE(to_string(a));
    CAPTURE(to_string(b));
    const Cells in_a = cells({a}), in_b = cells({b});
    Cells common;
    for (const auto& cell : in_a)
      if (in_b.contains(cell)) common.insert(cell);
    REQUIRE(cells({geometry::intersect(a, b)}) == common);
    REQUIRE(a.contains(b) == (common.size() == in_b.size()));
    const Box both = geometry::hull(a, b);
    REQUIRE(both.contains(a));
    REQUIRE(both.contains(b));
    REQUIRE(
        (both.empty() || both == a || both == b || both.elements() > std::max(a.empty() ? 0 : a.elements(), b.empty() ? 0 : b.elements())));
    REQUIRE(static_cast<Index>(in_a.size()) == a.elements());
  }
}

TEST_CASE("windows: inputs read and outputs touched, against trying every position") {
  Rng rng(testing::seed() + 2);
  for (int i = 0; i < 20000; ++i) {
    const geometry::Window window{rng.between(1, 7), rng.between(1, 3), rng.between(0, 8)};
    const Index in_size = rng.between(1, 20), out_size = rng.between(1, 20);
    const auto reads = [&](Index out, Index in) {
      return in >= out * window.stride - window.pad && in < out * window.stride - window.pad + window.kernel;
    };
    const Range out = random_range(rng, static_cast<int>(out_size) - 1), in = random_range(rng, static_cast<int>(in_size) - 1);
    Range read, touched;
    for (Index o = out.begin; o < out.end; ++o)
      for (Index j = 0; j < in_size; ++j)
        if (reads(o, j)) read = hull(read, {j, j + 1});
    for (Index o = 0; o < out_size; ++o)
      for (Index j = in.begin; j < in.end; ++j)
        if (reads(o, j)) touched = hull(touched, {o, o + 1});
    INFO(fmt::format("kernel {} stride {} pad {} out [{}, {}) in [{}, {})", window.kernel, window.stride, window.pad, out.begin, out.end,
                     in.begin, in.end));
    // Between windows that leave gaps a range may reach over cells that nobody reads, never less than the hull.
    const Range input = geometry::input_range(window, out, in_size), output = geometry::output_range(window, in, out_size);
    REQUIRE(input.contains(read));
    REQUIRE(output.contains(touched));
    if (window.kernel >= window.stride) {
      REQUIRE(input == read);
      REQUIRE(output == touched);
    }
  }
}

TEST_CASE("floor and ceiling division of any sign") {
  for (Index a = -20; a <= 20; ++a)
    for (Index b = 1; b <= 5; ++b) {
      const Index floor = geometry::floor_divide(a, b), ceiling = geometry::ceil_divide(a, b);
      REQUIRE((floor * b <= a && (floor + 1) * b > a));
      REQUIRE((ceiling * b >= a && (ceiling - 1) * b < a));
    }
}

TEST_CASE("cuts are partitions and follow their shares") {
  Rng rng(testing::seed() + 3);
  for (int i = 0; i < 3000; ++i) {
    CAPTURE(i);
    geometry::GridShares grid;
    for (auto* shares : {&grid.samples, &grid.rows, &grid.columns}) {
      shares->resize(static_cast<std::size_t>(rng.between(1, 5)));
      for (double& share : *shares) share = rng.chance(0.1) ? 0 : rng.uniform();
      shares->back() += 0.01;
    }
    const Index batch = rng.between(1, 5);
    const geometry::Shape shape{rng.between(1, 2), rng.between(1, 20), rng.between(1, 20)};
    const auto boxes = geometry::cut(batch, shape, grid);
    REQUIRE(boxes.size() == grid.cells());
    REQUIRE(geometry::is_partition(boxes, Box::whole(batch, shape)));
    REQUIRE(cells(boxes) == cells({Box::whole(batch, shape)}));
  }
  const auto half = geometry::cut(10, {1, 1});
  CHECK(half[0] == Range{0, 5});
  CHECK(half[1] == Range{5, 10});
  const auto unequal = geometry::cut(12, {1, 2, 3});
  CHECK(unequal[0] == Range{0, 2});
  CHECK(unequal[1] == Range{2, 6});
  CHECK(unequal[2] == Range{6, 12});
}

TEST_CASE("is_partition refuses gaps, overlaps and boxes outside") {
  const Box whole{{0, 1}, {0, 2}, {0, 4}, {0, 4}};
  const Box upper{{0, 1}, {0, 2}, {0, 2}, {0, 4}}, lower{{0, 1}, {0, 2}, {2, 4}, {0, 4}};
  CHECK(geometry::is_partition({upper, Box{}, lower}, whole));
  CHECK(!geometry::is_partition({upper}, whole));
  CHECK(!geometry::is_partition({upper, upper}, whole));
  CHECK(!geometry::is_partition({upper, whole}, whole));
  Box outside = lower;
  outside.y = {2, 5};
  CHECK(!geometry::is_partition({upper, outside}, whole));
}
