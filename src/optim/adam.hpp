// Adam (Kingma, Ba 2015) as Darknet's GPU code has it (adam_update_gpu), and AMSGrad (Reddi, Kale, Kumar 2018).
#pragma once

#include <span>

#include "base/thread_pool.hpp"

namespace tessera::optim {

struct Adam {
  float b1 = 0.9f, b2 = 0.999f;
  float eps = 1e-7f;        // beside the root of the second moment of a batch's summed gradient
  float learning_rate = 0;  // already multiplied with the layer's learning_rate_scale
  float decay = 0;          // weight decay, added to the gradient (not decoupled)
  int batch = 1;            // images whose gradients were summed
  long step = 1;            // of the training, from 1: corrects the bias of moments that began with zeros

  float first_correction() const;   // 1 - b1^step
  float second_correction() const;  // 1 - b2^step
};

// Any part of an array, the same part of each; moments are zeros before the first step.
struct AdamSlice {
  std::span<float> values;
  std::span<const float> gradient;  // points downhill, summed over the batch: Darknet adds it to the weights
  std::span<float> first, second;   // moments
  std::span<float> largest;         // second moment, the largest so far (AMSGrad); empty: plain Adam
};

// d = gradient - decay * batch * values; first = b1 first + (1 - b1) d; second = b2 second + (1 - b2) d²;
// values += learning_rate * (first / (1 - b1^step)) / (sqrt(second / (1 - b2^step)) + eps), with `largest` in place of
// `second` where there is one. Bit-identical for any thread count and any cut into slices.
void update(const Adam& adam, const AdamSlice& slice, base::ThreadPool& pool);

}  // namespace tessera::optim
