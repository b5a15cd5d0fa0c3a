// How far rounding alone carries a network: what no other order of summation can be expected to beat.
#pragma once

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "tests/support/oracle.hpp"
#include "tests/support/random.hpp"

namespace tessera::testing {

// An error is accepted up to this many times what rounding alone makes.
constexpr double kRoundingFactor = 4;
// The share of cases that may need it: a test in which more do shows nothing.
constexpr double kMostUncertain = 0.25;

// Moves images, weights and, before a batch norm, biases by as much as the order of summation moves what is computed from
// them. `measured`: the network whose last forward pass says how far stock's means are off, for example `net` itself.
void change_last_bits(network& net, const network& measured, Rng& rng);

// The largest relative Euclidean error of any convolution's weights, biases, scales or rolling statistics.
double weight_error(const network& net, const network& expected);

// Copies of a network that is trained, with other last bits before every iteration. Training may be chaotic: where a value
// lies at an activation's kink or two in a pooling window are equal, the copies go ways of their own.
class Shadows {
 public:
  // `net`: of this cfg, before its first iteration.
  Shadows(const std::string& cfg, const network& net, std::uint64_t seed);

  // After an iteration of `net` with this loss: the same for every copy. `train` returns its loss.
  void follow(const network& net, double loss, const std::function<double(network&)>& train);

  // `tolerance`, or what rounding has made of any copy so far if that is more. Relative to `net`'s loss and weights.
  double allowed_loss_error(double tolerance) const { return std::max(tolerance, kRoundingFactor * loss_error_); }
  double allowed_weight_error(double tolerance) const { return std::max(tolerance, kRoundingFactor * weight_error_); }
  // The same for one row's outputs in inference at batch 1, after whatever training there was.
  double allowed_output_error(double tolerance, const std::vector<float>& input, const std::vector<float>& output);

 private:
  std::vector<StockNetwork> copies_;
  Rng rng_;
  double loss_error_ = 0, weight_error_ = 0;
};

}  // namespace tessera::testing
