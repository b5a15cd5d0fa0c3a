// Half precision and the messages made of it.
#include "kernels/half.hpp"

#include <limits>

#include "tests/unit/kernels/support.hpp"

using namespace tessera;
using namespace tessera::kernels;
using namespace tessera::kernels::test;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// IEEE 754 in words: the multiple of the last place that is nearest, the even one of two; from the middle between the
// largest half and the next power of two on, infinity.
std::uint16_t slow_half(float value) {
  const std::uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  if (std::isnan(value)) return sign | 0x7e00;
  const double magnitude = std::abs(static_cast<double>(value));
  if (magnitude == 0) return sign;
  if (magnitude > 1e6) return sign | 0x7c00;
  const double place = std::ldexp(1, std::max(std::ilogb(magnitude), -14) - 10);
  const double rounded = std::nearbyint(magnitude / place) * place;
  if (rounded >= 65536) return sign | 0x7c00;
  if (rounded < std::ldexp(1, -14)) return static_cast<std::uint16_t>(sign | static_cast<int>(rounded * std::ldexp(1, 24)));
  const int exponent = std::ilogb(rounded);
  const int fraction = static_cast<int>(rounded / std::ldexp(1, exponent - 10)) - 1024;
  return static_cast<std::uint16_t>(sign | (exponent + 15) << 10 | fraction);
}

double slow_value(std::uint16_t half) {
  const int exponent = half >> 10 & 31, fraction = half & 1023;
  const double magnitude = exponent == 0    ? std::ldexp(fraction, -24)
                           : exponent == 31 ? (fraction == 0 ? kInfinity : std::numeric_limits<double>::quiet_NaN())
                                            : std::ldexp(1024 + fraction, exponent - 25);
  return half & 0x8000 ? -magnitude : magnitude;
}

std::vector<std::byte> packed(const Tensor& tensor, const Box& box, base::ThreadPool& pool) {
  std::vector<std::byte> bytes(half_message_bytes(box));
  pack_half(tensor.view(), box, bytes, pool);
  return bytes;
}

// How far a cell may be off that has travelled in a message with this largest cell: half of its last place, and from 2^-28
// of the largest on half of a fixed step.
double most_error(double value, double largest) { return std::max(std::abs(value) / 2048, largest * 0x1p-39); }

}  // namespace

TEST_CASE("all 65536 halves become the float they mean, and themselves again") {
  for (int i = 0; i < 65536; ++i) {
    const auto half = static_cast<std::uint16_t>(i);
    const double want = slow_value(half);
    const float got = from_half(half);
    if (std::isnan(want)) {
      REQUIRE(std::isnan(got));
      REQUIRE((to_half(got) & 0x7fff) == 0x7e00);
      continue;
    }
    REQUIRE_MESSAGE(static_cast<double>(got) == want, "half ", i);
    REQUIRE(std::signbit(got) == std::signbit(want));
    REQUIRE_MESSAGE(to_half(got) == half, "half ", i);
  }
}

TEST_CASE("floats are rounded to the nearest half, ties to even") {
  Random random(1);
  const auto check = [](float value) {
    REQUIRE_MESSAGE(to_half(value) == slow_half(value), "value ", value, " got ", to_half(value), " want ", slow_half(value));
  };
  for (int i = 0; i < 1'000'000; ++i) {
    const auto bits = static_cast<std::uint32_t>(random());
    check(std::bit_cast<float>(bits));
    // Most random floats are out of range; these are within it or just outside.
    check(std::bit_cast<float>((bits & 0x80ffffffu) | (0x60u + (bits >> 24 & 31)) << 23));
  }
  // Both sides of every middle between two halves, and the middle itself.
  for (int i = 0; i < 0x7c00; ++i) {
    const double below = slow_value(static_cast<std::uint16_t>(i));
    const double above = i == 0x7bff ? 65536 : slow_value(static_cast<std::uint16_t>(i + 1));
    const auto middle = static_cast<float>((below + above) / 2);
    for (const float value : {middle, std::nextafter(middle, 0.f), std::nextafter(middle, kInfinity)}) check(value), check(-value);
  }
  for (const float value : {0.f, -0.f, kInfinity, -kInfinity, std::numeric_limits<float>::max(), std::numeric_limits<float>::denorm_min()})
    check(value);
}

TEST_CASE("a message of halves carries any box with eleven bits, whatever the size of its values") {
  Random random(2);
  for (int i = 0; i < 300; ++i) {
    const Box whole{{0, uniform(random, 1, 3)}, {0, uniform(random, 1, 9)}, {0, uniform(random, 1, 40)}, {0, uniform(random, 1, 70)}};
    const Box box{random_range(random, whole.n.end), random_range(random, whole.c.end), random_range(random, whole.y.end),
                  random_range(random, whole.x.end)};
    base::ThreadPool pool(static_cast<int>(uniform(random, 1, 3)));
    Tensor source(whole), target(whole);
    source.randomize(random);
    const float scale = std::ldexp(1.f, static_cast<int>(uniform(random, -80, 120)));
    double largest = 0;
    source.each(box, [&](float& cell) { cell *= scale, largest = std::max<double>(largest, std::abs(cell)); });
    target.randomize(random);
    target.each(whole, [&](float& cell) { cell *= scale; });
    const bool accumulate = uniform(random, 0, 1) == 1;
    const Tensor before = target;
    const auto bytes = packed(source, box, pool);
    CHECK(bytes.size() == 2 * static_cast<std::size_t>(box.elements()) + 2);
    REQUIRE(unpack_half(bytes, target.view(), box, accumulate, pool));
    REQUIRE(target.same_outside(before, box));
    bool precise = true;
    for (Index n = box.n.begin; n < box.n.end; ++n)
      for (Index c = box.c.begin; c < box.c.end; ++c)
        for (Index y = box.y.begin; y < box.y.end; ++y)
          for (Index x = box.x.begin; x < box.x.end; ++x) {
            const double want = source.at(n, c, y, x), got = target.at(n, c, y, x), old = before.view().at(n, c, y, x);
            const double rounding = accumulate ? 1e-7 * (std::abs(old) + std::abs(want)) : 0;  // of the addition
            precise = precise && std::abs(got - (accumulate ? old : 0) - want) <= most_error(want, largest) + rounding;
          }
    CHECK_MESSAGE(precise, "case ", i, " scale ", scale);
  }
}

TEST_CASE("messages of halves: zeros, infinities, NaN, and the largest and smallest floats") {
  base::ThreadPool pool(1);
  const Box box{{0, 1}, {0, 1}, {0, 1}, {0, 4}};
  const auto travel = [&](std::vector<float> values) {
    Tensor source(box), target(box);
    for (Index x = 0; x < 4; ++x) source.at(0, 0, 0, x) = values[static_cast<std::size_t>(x)];
    REQUIRE(unpack_half(packed(source, box, pool), target.view(), box, false, pool));
    for (Index x = 0; x < 4; ++x) values[static_cast<std::size_t>(x)] = target.at(0, 0, 0, x);
    return values;
  };
  CHECK(travel({0, 0, -0.f, 0}) == std::vector<float>{0, 0, 0, 0});
  const auto odd = travel({kInfinity, -kInfinity, 1e-8f, std::numeric_limits<float>::quiet_NaN()});
  CHECK(odd[0] == kInfinity);
  CHECK(odd[1] == -kInfinity);
  CHECK_NEAR(odd[2], 1e-8, 1e-8 / 2048);  // what is not finite does not set the scale
  CHECK(std::isnan(odd[3]));
  constexpr float kMost = std::numeric_limits<float>::max();
  const auto large = travel({kMost, 1e30f, 1, -kMost / 2});
  CHECK(large[0] >= kMost * (1 - 1e-3f));
  CHECK_NEAR(large[1] / 1e30, 1, 1e-3);
  CHECK(travel({0x1p-120f, 0, 0, 0x1p-122f}) == std::vector<float>{0x1p-120f, 0, 0, 0x1p-122f});
}

TEST_CASE("a message of halves with an impossible exponent is refused and changes nothing") {
  base::ThreadPool pool(1);
  const Box box{{0, 1}, {0, 2}, {0, 3}, {0, 4}};
  Random random(3);
  Tensor source(box), target(box);
  source.randomize(random), target.randomize(random);
  const Tensor before = target;
  auto bytes = packed(source, box, pool);
  for (const int exponent : {-32768, -114, 127, 32767}) {
    const auto sent = static_cast<std::int16_t>(exponent);
    std::memcpy(bytes.data(), &sent, sizeof sent);
    CHECK_FALSE(unpack_half(bytes, target.view(), box, false, pool));
    CHECK_FALSE(unpack_half(bytes, target.view(), box, true, pool));
    CHECK(target.same_bits(before));
  }
}
