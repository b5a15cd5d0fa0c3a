// The optimiser step of Darknet (update_convolutional_layer), one fused pass per array.
#pragma once

#include <span>

#include "base/thread_pool.hpp"

namespace tessera::kernels {

struct UpdateParameters {
  float learning_rate = 0;  // already multiplied with the layer's learning_rate_scale
  float momentum = 0;
  float decay = 0;
  int batch = 1;  // images in one update: batch * subdivisions
};

// updates += gradient (updates holds the momentum-scaled history), updates -= decay * batch * weights,
// weights += learning_rate / batch * updates, updates *= momentum. Bit-identical for any thread count, and for any
// cut of the arrays into pieces. An empty gradient: it was added to updates already.
void update_weights(const UpdateParameters& parameters, std::span<float> weights, std::span<float> updates, std::span<const float> gradient,
                    base::ThreadPool& pool);

// The same without decay: biases and batch-norm scales.
void update_biases(const UpdateParameters& parameters, std::span<float> biases, std::span<float> updates, std::span<const float> gradient,
                   base::ThreadPool& pool);

// No value is infinite or NaN.
bool all_finite(std::span<const float> values, base::ThreadPool& pool);

}  // namespace tessera::kernels
