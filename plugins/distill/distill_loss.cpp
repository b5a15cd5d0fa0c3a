#include "plugins/distill/distill_loss.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/check.hpp"

namespace tessera::distill {
namespace {

// Logarithms of softmax(values / temperature).
std::vector<double> log_softmax(std::span<const float> values, double temperature) {
  const double most = *std::max_element(values.begin(), values.end());
  double sum = 0;
  for (const float value : values) sum += std::exp((value - most) / temperature);
  std::vector<double> result;
  for (const float value : values) result.push_back((value - most) / temperature - std::log(sum));
  return result;
}

}  // namespace

float distill_loss(const DistillSettings& settings, std::span<const float> logits, std::span<const float> truth,
                   std::span<const float> teacher, std::span<float> output, std::span<float> delta) {
  const std::size_t classes = logits.size();
  TESSERA_CHECK(classes > 0 && truth.size() == classes && output.size() == classes && delta.size() == classes &&
                    (teacher.empty() || teacher.size() == classes),
                "logits={} truth={} teacher={} output={} delta={}", classes, truth.size(), teacher.size(), output.size(), delta.size());
  const std::vector<double> log_p = log_softmax(logits, 1);
  double loss = 0, mass = 0;
  for (const float t : truth) mass += t;
  for (std::size_t c = 0; c < classes; ++c) {
    const double p = std::exp(log_p[c]);
    if (truth[c] != 0) loss -= truth[c] * log_p[c];
    output[c] = static_cast<float>(p);
    delta[c] = static_cast<float>(truth[c] - mass * p);
  }
  if (teacher.empty()) return static_cast<float>(loss);
  const double t = settings.temperature, alpha = settings.alpha;
  const std::vector<double> log_q = log_softmax(logits, t), log_teacher = log_softmax(teacher, t);
  for (std::size_t c = 0; c < classes; ++c) {
    const double wanted = std::exp(log_teacher[c]);
    loss += alpha * t * t * wanted * (log_teacher[c] - log_q[c]);
    delta[c] += static_cast<float>(alpha * t * (wanted - std::exp(log_q[c])));
  }
  return static_cast<float>(loss);
}

}  // namespace tessera::distill
