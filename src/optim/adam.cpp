#include "optim/adam.hpp"

#include <algorithm>
#include <cmath>

#include "base/check.hpp"

namespace tessera::optim {
namespace {

constexpr std::ptrdiff_t kElementsPerTask = 65536;

float correction(float b, long step) { return static_cast<float>(1 - std::pow(static_cast<double>(b), static_cast<double>(step))); }

template <bool kLargest>
void update_range(const Adam& adam, const AdamSlice& slice, std::ptrdiff_t begin, std::ptrdiff_t end) {
  const float decay = -adam.decay * static_cast<float>(adam.batch);
  const float rate = adam.learning_rate / adam.first_correction(), second_factor = 1 / adam.second_correction();
  float* __restrict value = slice.values.data();
  float* __restrict first = slice.first.data();
  float* __restrict second = slice.second.data();
  float* __restrict largest = slice.largest.data();
  const float* __restrict gradient = slice.gradient.data();
  for (std::ptrdiff_t i = begin; i < end; ++i) {
    const float d = gradient[i] + decay * value[i];
    first[i] = adam.b1 * first[i] + (1 - adam.b1) * d;
    second[i] = adam.b2 * second[i] + (1 - adam.b2) * d * d;
    float scale = second[i];
    if constexpr (kLargest) scale = largest[i] = std::max(largest[i], scale);
    value[i] += rate * first[i] / (std::sqrt(scale * second_factor) + adam.eps);
  }
}

}  // namespace

float Adam::first_correction() const { return correction(b1, step); }
float Adam::second_correction() const { return correction(b2, step); }

void update(const Adam& adam, const AdamSlice& slice, base::ThreadPool& pool) {
  const std::size_t size = slice.values.size();
  TESSERA_CHECK(slice.gradient.size() == size && slice.first.size() == size && slice.second.size() == size &&
                    (slice.largest.empty() || slice.largest.size() == size) && adam.step >= 1,
                "values={} gradient={} first={} second={} largest={} step={}", size, slice.gradient.size(), slice.first.size(),
                slice.second.size(), slice.largest.size(), adam.step);
  const auto count = static_cast<std::ptrdiff_t>(size);
  pool.parallel_for((count + kElementsPerTask - 1) / kElementsPerTask, [&](std::ptrdiff_t task, int) {
    const std::ptrdiff_t begin = task * kElementsPerTask, end = std::min(count, begin + kElementsPerTask);
    if (slice.largest.empty())
      update_range<false>(adam, slice, begin, end);
    else
      update_range<true>(adam, slice, begin, end);
  });
}

}  // namespace tessera::optim
