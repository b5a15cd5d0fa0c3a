#include "tests/equivalence/shadows.hpp"

#include <algorithm>
#include <cmath>

#include "tests/support/wrapped_network.hpp"

namespace tessera::testing {

namespace {

constexpr int kCopies = 3;
constexpr float kLastBit = 1.2e-7f;
// Rounding of one pre-activation, in units of its channel's standard deviation.
constexpr double kPreactivationRounding = 2e-6;

// How far stock's normalised values of a channel are off because it adds up the mean of all cells in float.
double mean_rounding(const layer& l, int channel) {
  const int cells = l.out_w * l.out_h;
  double mean = 0;
  for (int image = 0; image < l.batch; ++image)
    for (int cell = 0; cell < cells; ++cell) mean += l.x[(image * l.n + channel) * cells + cell];
  mean /= l.batch * cells;
  return std::fabs(mean - l.mean[channel]) / std::sqrt(l.variance[channel] + 1e-12);
}

// The neighbouring float above or below, or the same.
void change_last_bit(float& value, Rng& rng) { value *= 1 + kLastBit * static_cast<float>(rng.between(-1, 1)); }

// Infinity when one of them is not a number.
double larger(double a, double b) { return std::isnan(a) || std::isnan(b) ? INFINITY : std::max(a, b); }

}  // namespace

void change_last_bits(network& net, const network& measured, Rng& rng) {
  for (int k = 0; k < net.inputs * net.batch; ++k) change_last_bit(net.input[k], rng);
  for (int k = 0; k < net.n; ++k) {
    const layer& l = net.layers[k];
    if (l.type != CONVOLUTIONAL) continue;
    for (int w = 0; w < l.nweights; ++w) change_last_bit(l.weights[w], rng);
    for (int c = 0; c < l.n && l.batch_normalize; ++c) {
      const double most_off = 2 * mean_rounding(measured.layers[k], c) + kPreactivationRounding;
      l.biases[c] += std::fabs(l.scales[c]) * rng.uniform(static_cast<float>(-most_off), static_cast<float>(most_off));
    }
  }
}

double weight_error(const network& net, const network& expected) {
  double worst = 0;
  const auto note = [&](const float* a, const float* b, int count) {
    // The floor: statistics of a channel that is all but constant.
    worst = larger(worst, relative_error(a, b, static_cast<std::size_t>(count), 1e-6));
  };
  for (int i = 0; i < net.n; ++i) {
    const layer &a = net.layers[i], &b = expected.layers[i];
    if (b.type != CONVOLUTIONAL) continue;
    note(a.weights, b.weights, b.nweights);
    note(a.biases, b.biases, b.n);
    if (!b.batch_normalize) continue;
    note(a.scales, b.scales, b.n);
    note(a.rolling_mean, b.rolling_mean, b.n);
    note(a.rolling_variance, b.rolling_variance, b.n);
  }
  return worst;
}

Shadows::Shadows(const std::string& cfg, const network& net, std::uint64_t seed) : rng_(seed) {
  const Quiet quiet;
  for (int i = 0; i < kCopies; ++i) {
    copies_.push_back(parse_stock_network(cfg));
    give_region_a_backward(*copies_.back());
    copy_weights(net, *copies_.back());
  }
}

void Shadows::follow(const network& net, double loss, const std::function<double(network&)>& train) {
  const Quiet quiet;
  for (const auto& copy : copies_) {
    change_last_bits(*copy, *copy, rng_);
    loss_error_ = larger(loss_error_, std::fabs(train(*copy) - loss) / std::fabs(loss));
    weight_error_ = larger(weight_error_, testing::weight_error(*copy, net));
  }
}

double Shadows::allowed_output_error(double tolerance, const std::vector<float>& input, const std::vector<float>& output) {
  const Quiet quiet;
  double worst = 0;
  for (const auto& copy : copies_) {
    const int before = copy->batch;
    stock_set_batch_network(copy.get(), 1);
    auto row = input;
    worst = larger(worst, relative_error(stock_network_predict(copy.get(), row.data()), output.data(), output.size()));
    stock_set_batch_network(copy.get(), before);
  }
  return std::max(tolerance, kRoundingFactor * worst);
}

}  // namespace tessera::testing
