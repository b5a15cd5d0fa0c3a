// Vectors of floats where a compiler left alone does not find them, in GCC's portable form: it turns them into whatever
// registers the machine has. Internal.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>

namespace tessera::kernels {

// As wide as shuffles are cheap: 32 bytes with AVX, else 16.
inline constexpr int kVector = __BIGGEST_ALIGNMENT__ >= 32 ? 8 : 4;

typedef float Floats __attribute__((vector_size(kVector * sizeof(float))));
typedef std::int32_t Integers __attribute__((vector_size(kVector * sizeof(std::int32_t))));
typedef std::uint8_t Bytes __attribute__((vector_size(kVector)));

// At any address.
inline Floats load(const float* cells) {
  Floats values;
  std::memcpy(&values, cells, sizeof values);
  return values;
}
inline void store(Floats values, float* cells) { std::memcpy(cells, &values, sizeof values); }

// result[i] = value place(i) of low and high one after the other.
template <typename Place>
inline Floats shuffle(Floats low, Floats high, Place place) {
  Integers places{};
  for (int i = 0; i < kVector; ++i) places[i] = place(i);
  return __builtin_shuffle(low, high, places);
}

// The first, third, ... and the second, fourth, ... value.
inline Floats even(Floats low, Floats high) {
  return shuffle(low, high, [](int i) { return 2 * i; });
}
inline Floats odd(Floats low, Floats high) {
  return shuffle(low, high, [](int i) { return 2 * i + 1; });
}

// The first and the second half of low[0], high[0], low[1], high[1], ...
inline Floats interleave_low(Floats low, Floats high) {
  return shuffle(low, high, [](int i) { return i / 2 + (i & 1) * kVector; });
}
inline Floats interleave_high(Floats low, Floats high) {
  return shuffle(low, high, [](int i) { return kVector / 2 + i / 2 + (i & 1) * kVector; });
}

// A square of values, its rows and columns exchanged: blocks of kWidth, then of half as many, beside the diagonal.
using Square = std::array<Floats, kVector>;
template <int kWidth = kVector / 2>
inline void transpose(Square& rows) {
  if constexpr (kWidth > 0) {
    for (int i = 0; i < kVector; ++i) {
      if ((i & kWidth) != 0) continue;
      const Floats upper = rows[i], lower = rows[i + kWidth];
      rows[i] = shuffle(upper, lower, [](int k) { return (k & kWidth) != 0 ? kVector + k - kWidth : k; });
      rows[i + kWidth] = shuffle(upper, lower, [](int k) { return (k & kWidth) != 0 ? kVector + k : k + kWidth; });
    }
    transpose<kWidth / 2>(rows);
  }
}

}  // namespace tessera::kernels
