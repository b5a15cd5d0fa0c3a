// Random numbers for one training sample. Every sample has its own generator, made from the seed and the
// sample's number, so a batch is the same whichever thread makes it and wherever a training is resumed.
#pragma once

#include <cstdint>

namespace tessera::data {

// SplitMix64 (Steele, Lea, Flood 2014). Same numbers on every platform.
class SampleRng {
 public:
  SampleRng(std::uint64_t seed, std::uint64_t sample, std::uint64_t attempt = 0)
      : state_(mix(seed) ^ mix(sample * 0x9E3779B97F4A7C15u + 1) ^ mix(attempt + 0xD1B54A32D192ED03u)) {}

  std::uint64_t next() { return mix(state_ += 0x9E3779B97F4A7C15u); }

  // In [0, count), count > 0.
  std::uint64_t below(std::uint64_t count) { return next() % count; }

  // In [0, 1), 24 bits.
  float unit() { return static_cast<float>(next() >> 40) * 0x1p-24f; }

  // Between two ends in either order, as Darknet's rand_uniform().
  float between(float a, float b) { return a + (b - a) * unit(); }

  // s or 1/s with s between 1 and `most`, as Darknet's rand_scale().
  float scale(float most) {
    const float s = between(1, most);
    return next() & 1 ? s : 1 / s;
  }

 private:
  static std::uint64_t mix(std::uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }

  std::uint64_t state_;
};

}  // namespace tessera::data
