// The loss of knowledge distillation (Hinton, Vinyals, Dean 2015) for one picture.
#pragma once

#include <span>

namespace tessera::distill {

struct DistillSettings {
  float temperature = 3;
  float alpha = 1;  // weight of the teacher
};

// Cross-entropy(softmax(logits), truth) + alpha * T² * KL(softmax(teacher / T) ‖ softmax(logits / T)). An empty teacher:
// the cross-entropy alone. `truth` are the classes' probabilities. `delta` gets minus the derivative by the logits (Darknet's
// sign); the teacher is constant. `output` gets softmax(logits).
float distill_loss(const DistillSettings& settings, std::span<const float> logits, std::span<const float> truth,
                   std::span<const float> teacher, std::span<float> output, std::span<float> delta);

}  // namespace tessera::distill
