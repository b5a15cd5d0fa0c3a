#include "kernels/update.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>

#include "base/check.hpp"

namespace tessera::kernels {
namespace {

constexpr std::ptrdiff_t kElementsPerTask = 65536;

template <bool kDecay, bool kFresh>
void update(const UpdateParameters& parameters, std::span<float> values, std::span<float> updates, std::span<const float> gradient,
            base::ThreadPool& pool) {
  TESSERA_CHECK(updates.size() == values.size() && (!kFresh || gradient.size() == values.size()), "values={} updates={} gradient={}",
                values.size(), updates.size(), gradient.size());
  const float decay = -parameters.decay * static_cast<float>(parameters.batch);
  const float rate = parameters.learning_rate / static_cast<float>(parameters.batch);
  const float momentum = parameters.momentum;
  const auto count = static_cast<std::ptrdiff_t>(values.size());
  const std::ptrdiff_t tasks = (count + kElementsPerTask - 1) / kElementsPerTask;
  pool.parallel_for(tasks, [&](std::ptrdiff_t task, int) {
    const std::ptrdiff_t begin = task * kElementsPerTask, end = std::min(count, begin + kElementsPerTask);
    float* __restrict value = values.data();
    float* __restrict history = updates.data();
    const float* __restrict fresh = gradient.data();
    for (std::ptrdiff_t i = begin; i < end; ++i) {
      float step = history[i];
      if constexpr (kFresh) step += fresh[i];
      if constexpr (kDecay) step += decay * value[i];
      value[i] += rate * step;
      history[i] = step * momentum;
    }
  });
}

template <bool kDecay>
void update(const UpdateParameters& parameters, std::span<float> values, std::span<float> updates, std::span<const float> gradient,
            base::ThreadPool& pool) {
  if (gradient.empty())
    update<kDecay, false>(parameters, values, updates, gradient, pool);
  else
    update<kDecay, true>(parameters, values, updates, gradient, pool);
}

}  // namespace

void update_weights(const UpdateParameters& parameters, std::span<float> weights, std::span<float> updates, std::span<const float> gradient,
                    base::ThreadPool& pool) {
  update<true>(parameters, weights, updates, gradient, pool);
}

void update_biases(const UpdateParameters& parameters, std::span<float> biases, std::span<float> updates, std::span<const float> gradient,
                   base::ThreadPool& pool) {
  update<false>(parameters, biases, updates, gradient, pool);
}

bool all_finite(std::span<const float> values, base::ThreadPool& pool) {
  const auto count = static_cast<std::ptrdiff_t>(values.size());
  std::atomic<bool> finite = true;
  pool.parallel_for((count + kElementsPerTask - 1) / kElementsPerTask, [&](std::ptrdiff_t task, int) {
    const std::ptrdiff_t begin = task * kElementsPerTask, end = std::min(count, begin + kElementsPerTask);
    std::uint32_t largest = 0;  // infinities and NaN have the largest exponent there is
    for (std::ptrdiff_t i = begin; i < end; ++i)
      largest = std::max(largest, std::bit_cast<std::uint32_t>(values[static_cast<std::size_t>(i)]) & 0x7fffffffu);
    if (largest >= 0x7f800000u) finite = false;
  });
  return finite;
}

}  // namespace tessera::kernels
