// Random choices of tests: the same on every machine for the same seed (std's distributions are not).
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

namespace tessera::testing {

class Rng {
 public:
  explicit Rng(std::uint64_t seed) : engine_(seed) {}

  // In [0, count).
  std::size_t below(std::size_t count) { return static_cast<std::size_t>(engine_() % count); }
  // In [from, to].
  int between(int from, int to) { return from + static_cast<int>(below(static_cast<std::size_t>(to - from) + 1)); }
  bool chance(double probability) { return uniform() < probability; }
  // In [0, 1).
  double uniform() { return static_cast<double>(engine_() >> 11) * 0x1.0p-53; }
  float uniform(float from, float to) { return from + (to - from) * static_cast<float>(uniform()); }
  template <typename T>
  const T& pick(const std::vector<T>& values) {
    return values[below(values.size())];
  }
  template <typename T>
  void shuffle(std::vector<T>& values) {
    for (std::size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[below(i)]);
  }

 private:
  std::mt19937_64 engine_;
};

}  // namespace tessera::testing
