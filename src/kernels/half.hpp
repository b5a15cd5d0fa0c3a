// Half precision (IEEE 754 binary16) for messages: 11 significant bits. Portable arithmetic on bits, the same result on
// every machine, in loops that compilers vectorise.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/thread_pool.hpp"
#include "geometry/tensor_view.hpp"

namespace tessera::kernels {

using geometry::Box;
using geometry::ConstFloatView;
using geometry::FloatView;

// Rounds to nearest, ties to even; below 6.1e-5 to a multiple of 2^-24; from 65520 on to infinity. NaN stays one (quiet).
inline std::uint16_t to_half(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t magnitude = bits & 0x7fffffff, sign = (bits >> 16) & 0x8000;
  // Exponent bias from 127 to 15, and 13 bits fewer: the carry of the rounding may run into the exponent, as it should.
  const std::uint32_t normal = (magnitude + 0xfff + ((magnitude >> 13) & 1) - (112u << 23)) >> 13;
  // The last bit of a float between a half and one is worth 2^-24: adding a half rounds to that.
  const std::uint32_t small = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000;
  const std::uint32_t large = magnitude > 0x7f800000 ? 0x7e00 : 0x7c00;
  const std::uint32_t finite = magnitude < 0x38800000 ? small : normal;
  return static_cast<std::uint16_t>(sign | (magnitude >= 0x477ff000 ? large : finite));
}

// Exact.
inline float from_half(std::uint16_t half) {
  const std::uint32_t sign = (half & 0x8000u) << 16, magnitude = half & 0x7fffu;
  const std::uint32_t normal = (magnitude << 13) + (112u << 23);
  const std::uint32_t small = std::bit_cast<std::uint32_t>(static_cast<float>(magnitude) * 0x1p-24f);
  const std::uint32_t large = (magnitude << 13) | 0x7f800000;
  return std::bit_cast<float>(sign | (magnitude < 0x400 ? small : magnitude >= 0x7c00 ? large : normal));
}

// A message of halves: an exponent (int16), then box.elements() halves in row-major order, all little-endian. Cells are
// multiplied by 2^exponent on their way, chosen so that the largest lies in [2^14, 2^15): none overflows, and what is down
// to 2^-28 of it keeps full precision, however small deltas are. Infinities and NaN travel as such.
std::size_t half_message_bytes(const Box& box);

// `bytes` has half_message_bytes(box).
void pack_half(ConstFloatView source, const Box& box, std::span<std::byte> bytes, base::ThreadPool& pool);

// target[box] = (or, accumulate, +=) the message. False, and nothing is written, when its exponent is none that pack_half()
// gives. `bytes` has half_message_bytes(box).
[[nodiscard]] bool unpack_half(std::span<const std::byte> bytes, FloatView target, const Box& box, bool accumulate, base::ThreadPool& pool);

}  // namespace tessera::kernels
