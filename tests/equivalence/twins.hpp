// One network twice: run by stock Darknet alone, and with a wrapped range. Whatever differs between them is an error.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "plan/plan.hpp"
#include "tests/support/random.hpp"
#include "tests/support/random_network.hpp"
#include "tests/support/wrapped_network.hpp"

namespace tessera::testing {

// Everything that makes one random case.
struct TwinCase {
  std::uint64_t seed = 0;
  Family family = Family::kYolov2Tiny;
  NetworkOptions options;
  std::string cfg;
  distributed::LayerRange range;
  graph::Graph graph;
  plan::Plan plan;
  kernels::Backend backend = kernels::Backend::kReference;
  int threads = 1;
};

// `any_range`: the wrapped layers begin and end anywhere; else they are the longest range from layer 0.
TwinCase random_twin_case(std::uint64_t seed, Family family, const NetworkOptions& options, bool any_range);
std::string describe(const TwinCase& c);

// Relative Euclidean error of every compared tensor, and what it may be.
struct Difference {
  double error = 0;
  double tolerance = 0;
};
using Differences = std::map<std::string, Difference>;

class Twins {
 public:
  // Same random weights and batch for both. Throws std::runtime_error with the reason when anything fails, here and below.
  Twins(const TwinCase& c, std::vector<std::unique_ptr<transport::Endpoint>> endpoints);
  explicit Twins(const TwinCase& c);  // over in-process endpoints

  network& stock() { return *stock_; }
  WrappedNetwork& ours() { return *ours_; }

  void load(const plan::Plan& plan, program::Mode mode);
  void next_batch(Rng& rng);                    // another random image and truth for both
  void forward();                               // as loaded, both
  void backward(bool last_subdivision = true);  // both, then our gradients are reduced if this was the batch's last part
  void update();                                // both
  void collect();                               // our parameters and momentum, from their homes to the network
  void set_batch(int batch);

  // What differs after forward, and after forward and a batch's last backward: outputs, input deltas, gradients (in the
  // momentum, as Darknet has them), rolling statistics.
  Differences compare_forward();
  Differences compare();

  // How far stock's own results (of the last forward and backward since an update) move when images and weights change in
  // the last bits, the most of several tries: no other order of summation can agree with stock better than that. It is
  // much more than rounding where a sum cancels to all but zero (the bias before a batch norm) and where a cell lies at
  // an activation's kink or two in a pooling window are equal.
  Differences uncertainty();

 private:
  TwinCase case_;
  StockNetwork stock_;
  std::unique_ptr<WrappedNetwork> ours_;
  program::Mode mode_ = program::Mode::kTrain;
};

// What is wrong with a case after forward and backward; empty: nothing. Adds to `uncertain` the tensors whose error is
// beyond the tolerance but not beyond kRoundingFactor times stock's own uncertainty.
std::string mismatch(Twins& twins, int& uncertain);

}  // namespace tessera::testing
