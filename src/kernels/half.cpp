#include "kernels/half.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "base/check.hpp"
#include "kernels/loops.hpp"

namespace tessera::kernels {
namespace {

constexpr int kTopExponent = 14;  // the largest cell lies in [2^14, 2^15)
constexpr Index kChunk = 512;
// From the largest float; and so that 2^-exponent is a normal float.
constexpr int kLeastExponent = kTopExponent - 127, kMostExponent = 126;

void check(const Box& view, const Box& box, std::size_t bytes) {
  TESSERA_CHECK(view.contains(box), "view={} box={}", to_string(view), to_string(box));
  TESSERA_CHECK(bytes == half_message_bytes(box), "bytes={} box={}", bytes, to_string(box));
}

// The largest magnitude of a finite cell.
float largest(ConstFloatView source, const Box& box, base::ThreadPool& pool) {
  std::atomic<std::int32_t> shared{0};  // as bits, which are ordered like the magnitudes
  const auto run = [&](Index n, Index c, Index y, Index length) {
    const float* cells = &source.at(n, c, y, box.x.begin);
    std::int32_t most = 0;
    for (Index i = 0; i < length; ++i) {
      const std::int32_t bits = std::bit_cast<std::int32_t>(cells[i]) & 0x7fffffff;
      const std::int32_t finite = bits & ((bits - 0x7f800000) >> 31);  // a condition here would not be vectorised
      most = most < finite ? finite : most;
    }
    std::int32_t known = shared.load(std::memory_order_relaxed);
    while (known < most && !shared.compare_exchange_weak(known, most, std::memory_order_relaxed)) {
    }
  };
  for_runs(box, pool, run, source);
  return std::bit_cast<float>(shared.load());
}

int exponent_for(float largest) { return largest == 0 ? 0 : std::clamp(kTopExponent - std::ilogb(largest), kLeastExponent, kMostExponent); }

// Where a run of cells lies in a message. Nothing there is aligned.
std::size_t offset(const Box& box, Index n, Index c, Index y) {
  const geometry::View<const float> whole{nullptr, box};
  return (1 + static_cast<std::size_t>(whole.offset(n, c, y, box.x.begin))) * sizeof(std::uint16_t);
}

}  // namespace

std::size_t half_message_bytes(const Box& box) { return (1 + static_cast<std::size_t>(box.elements())) * sizeof(std::uint16_t); }

void pack_half(ConstFloatView source, const Box& box, std::span<std::byte> bytes, base::ThreadPool& pool) {
  check(source.box, box, bytes.size());
  const auto exponent = static_cast<std::int16_t>(exponent_for(largest(source, box, pool)));
  std::memcpy(bytes.data(), &exponent, sizeof exponent);
  const float scale = std::ldexp(1.0f, exponent);
  const auto run = [&](Index n, Index c, Index y, Index length) {
    const float* __restrict from = &source.at(n, c, y, box.x.begin);
    std::byte* __restrict to = bytes.data() + offset(box, n, c, y);
    // By way of aligned memory: a loop that stores halves where nothing is aligned is not vectorised.
    std::uint16_t halves[kChunk];
    for (Index begin = 0; begin < length; begin += kChunk) {
      const Index count = std::min(kChunk, length - begin);
      for (Index i = 0; i < count; ++i) halves[i] = to_half(from[begin + i] * scale);
      std::memcpy(to + static_cast<std::size_t>(begin) * sizeof *halves, halves, static_cast<std::size_t>(count) * sizeof *halves);
    }
  };
  for_runs(box, pool, run, source);
}

bool unpack_half(std::span<const std::byte> bytes, FloatView target, const Box& box, bool accumulate, base::ThreadPool& pool) {
  check(target.box, box, bytes.size());
  std::int16_t exponent;
  std::memcpy(&exponent, bytes.data(), sizeof exponent);
  if (exponent < kLeastExponent || exponent > kMostExponent) return false;
  const float scale = std::ldexp(1.0f, -exponent);
  const auto run = [&](Index n, Index c, Index y, Index length) {
    const std::byte* __restrict from = bytes.data() + offset(box, n, c, y);
    float* __restrict to = &target.at(n, c, y, box.x.begin);
    const auto value = [&](Index i) {
      std::uint16_t half;
      std::memcpy(&half, from + static_cast<std::size_t>(i) * sizeof half, sizeof half);
      return from_half(half) * scale;
    };
    if (accumulate)
      for (Index i = 0; i < length; ++i) to[i] += value(i);
    else
      for (Index i = 0; i < length; ++i) to[i] = value(i);
  };
  for_runs(box, pool, run, target);
  return true;
}

}  // namespace tessera::kernels
