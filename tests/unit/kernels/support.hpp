// Shared by the kernel tests: tensors with guards, random data, comparisons that NaN fails.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "geometry/tensor_view.hpp"

namespace tessera::kernels::test {

using geometry::Box;
using geometry::ConstFloatView;
using geometry::FloatView;
using geometry::Index;
using geometry::Range;
using geometry::Shape;

using Random = std::mt19937;

inline Index uniform(Random& random, Index low, Index high) { return std::uniform_int_distribution<Index>(low, high)(random); }

// Rounds of a test: TESSERA_TEST_CUT=20 in the environment makes them a twentieth, for emulated processors.
inline unsigned rounds(unsigned all) {
  const char* cut = std::getenv("TESSERA_TEST_CUT");
  return std::max(1u, all / static_cast<unsigned>(cut != nullptr ? std::max(1, std::atoi(cut)) : 1));
}

// Random range inside [0, size), not empty; about one in three is all of it.
inline Range random_range(Random& random, Index size) {
  if (uniform(random, 0, 2) == 0) return {0, size};
  const Index begin = uniform(random, 0, size - 1);
  return {begin, uniform(random, begin + 1, size)};
}

// A range that holds `needed` and lies in [0, size): sometimes exactly it, sometimes more.
inline Range random_hull(Random& random, Range needed, Index size) {
  if (needed.empty()) return {0, 0};
  if (uniform(random, 0, 1) == 0) return needed;
  return {uniform(random, 0, needed.begin), uniform(random, needed.end, size)};
}

// A tensor whose memory is surrounded by guard cells; all cells start as `kPoison`, a NaN no kernel produces, so that
// a cell read by mistake poisons the result and a cell written by mistake is seen.
class Tensor {
 public:
  explicit Tensor(const Box& box) : cells_(static_cast<std::size_t>(box.elements()) + 2 * kGuard), box_(box) {
    std::fill(cells_.begin(), cells_.end(), poison());
  }

  FloatView view() { return {cells_.data() + kGuard, box_}; }
  ConstFloatView view() const { return {cells_.data() + kGuard, box_}; }
  float& at(Index n, Index c, Index y, Index x) { return view().at(n, c, y, x); }
  const Box& box() const { return box_; }

  Tensor& randomize(Random& random, const Box& part) {
    std::uniform_real_distribution<float> values(-1, 1);
    each(part, [&](float& cell) { cell = values(random); });
    return *this;
  }
  Tensor& randomize(Random& random) { return randomize(random, box_); }
  Tensor& set(const Box& part, float value) {
    each(part, [&](float& cell) { cell = value; });
    return *this;
  }

  template <typename Body>
  void each(const Box& part, const Body& body) {
    for (Index n = part.n.begin; n < part.n.end; ++n)
      for (Index c = part.c.begin; c < part.c.end; ++c)
        for (Index y = part.y.begin; y < part.y.end; ++y)
          for (Index x = part.x.begin; x < part.x.end; ++x) body(at(n, c, y, x));
  }

  // True when every cell outside `written`, guards included, has the bits it has in `before`.
  bool same_outside(const Tensor& before, const Box& written) const {
    std::vector<float> mine = cells_, theirs = before.cells_;
    for (Index n = written.n.begin; n < written.n.end; ++n)
      for (Index c = written.c.begin; c < written.c.end; ++c)
        for (Index y = written.y.begin; y < written.y.end; ++y)
          for (Index x = written.x.begin; x < written.x.end; ++x) {
            const auto cell = kGuard + static_cast<std::size_t>(view().offset(n, c, y, x));
            mine[cell] = theirs[cell] = 0;
          }
    return std::memcmp(mine.data(), theirs.data(), mine.size() * sizeof(float)) == 0;
  }

  bool same_bits(const Tensor& other) const {
    return cells_.size() == other.cells_.size() && std::memcmp(cells_.data(), other.cells_.data(), cells_.size() * sizeof(float)) == 0;
  }

 private:
  static constexpr std::size_t kGuard = 64;
  static float poison() {
    const std::uint32_t bits = 0x7fc12345;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }

  std::vector<float> cells_;
  Box box_;
};

// ||got - expected|| / ||expected|| over `part`; NaN when a cell is.
inline double relative_error(ConstFloatView got, ConstFloatView expected, const Box& part) {
  double difference = 0, size = 0;
  for (Index n = part.n.begin; n < part.n.end; ++n)
    for (Index c = part.c.begin; c < part.c.end; ++c)
      for (Index y = part.y.begin; y < part.y.end; ++y)
        for (Index x = part.x.begin; x < part.x.end; ++x) {
          const double want = expected.at(n, c, y, x), have = got.at(n, c, y, x);
          difference += (have - want) * (have - want);
          size += want * want;
        }
  return difference == 0 ? 0 : std::sqrt(difference / std::max(size, 1e-30));
}

inline double relative_error(const std::vector<float>& got, const std::vector<float>& expected) {
  const Box box{{0, 1}, {0, 1}, {0, 1}, {0, static_cast<Index>(expected.size())}};
  return relative_error({got.data(), box}, {expected.data(), box}, box);
}

inline std::vector<float> random_values(Random& random, std::size_t count, float low = -1, float high = 1) {
  std::uniform_real_distribution<float> values(low, high);
  std::vector<float> result(count);
  for (float& value : result) value = values(random);
  return result;
}

}  // namespace tessera::kernels::test

// x <= tolerance is false for NaN, so NaN fails.
#define CHECK_NEAR(got, expected, tolerance)                                                        \
  do {                                                                                              \
    const double got_ = (got), expected_ = (expected), tolerance_ = (tolerance);                    \
    CHECK_MESSAGE(std::abs(got_ - expected_) <= tolerance_, "got ", got_, " expected ", expected_); \
  } while (false)
#define CHECK_SMALL(error, tolerance)                                             \
  do {                                                                            \
    const double error_ = (error);                                                \
    CHECK_MESSAGE(error_ <= (tolerance), "error ", error_, " above ", tolerance); \
  } while (false)
