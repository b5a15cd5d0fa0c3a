// Networks without a [distributed] section on our kernels, in training and inference, against stock Darknet.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "darknet/upstream/adam.hpp"
#include "plugins/distributed/distributed_engine.hpp"
#include "tests/equivalence/shadows.hpp"
#include "tests/support/random_network.hpp"
#include "tests/support/seed.hpp"
#include "tests/support/wrapped_network.hpp"

using namespace tessera;
using testing::Rng;

namespace {

constexpr double kOutputTolerance = 1e-5, kWeightTolerance = 1e-3, kLossTolerance = 1e-3;
constexpr int kCasesPerFamily = 8;
constexpr const char* kBackends[] = {"auto", "reference", "blas"};

darknet::EngineOptions options_with(const char* backend) {
  darknet::EngineOptions options;
  options.backend = backend;
  return options;
}

// The same network twice, with the same weights.
struct Pair {
  Pair(const std::string& cfg, Rng& rng) : stock(testing::parse_stock_network(cfg)), ours(testing::parse_stock_network(cfg)) {
    testing::give_region_a_backward(*stock);
    testing::give_region_a_backward(*ours);
    testing::randomize_weights(*stock, rng);
    testing::copy_weights(*stock, *ours);
  }
  testing::StockNetwork stock, ours;
};

// Rows for one batch; the images are random, the truths as randomize_batch() makes them.
class Batch {
 public:
  Batch(network& net, Rng& rng) {
    const int rows = net.batch * net.subdivisions;
    for (int row = 0; row < rows; row += net.batch) {
      testing::randomize_batch(net, rng);
      inputs_.insert(inputs_.end(), net.input, net.input + net.batch * net.inputs);
      truths_.insert(truths_.end(), net.truth, net.truth + net.batch * net.truths);
    }
    for (int row = 0; row < rows; ++row) {
      input_rows_.push_back(inputs_.data() + row * net.inputs);
      truth_rows_.push_back(truths_.data() + row * net.truths);
    }
    stock_.X = {rows, net.inputs, input_rows_.data()};
    stock_.y = {rows, net.truths, truth_rows_.data()};
    ours_ = {{rows, net.w, net.h, net.c, net.truths}, input_rows_, truth_rows_};
  }
  const ::data& stock() const { return stock_; }
  const tessera::data::Batch& ours() const { return ours_; }

 private:
  std::vector<float> inputs_, truths_;
  std::vector<float*> input_rows_, truth_rows_;
  ::data stock_{};
  tessera::data::Batch ours_;
};

// Layers whose own output buffer is gone: those that run on our kernels.
int wrapped_layers(const network& net) {
  int count = 0;
  for (int i = 0; i < net.n; ++i) count += net.layers[i].output == nullptr;
  return count;
}

}  // namespace

TEST_CASE("inference of every family on our kernels gives stock Darknet's outputs") {
  for (const auto family : testing::all_families())
    for (int i = 0; i < kCasesPerFamily; ++i) {
      const auto seed = testing::seed() + 100 * static_cast<std::uint64_t>(family) + static_cast<std::uint64_t>(i);
      Rng rng(seed);
      testing::NetworkOptions options;
      options.batch = 1;
      const std::string cfg = testing::random_network(rng, family, options);
      const char* const backend = kBackends[i % 3];
      CAPTURE(seed);
      CAPTURE(cfg);
      CAPTURE(backend);
      const testing::Quiet quiet;
      const Pair pair(cfg, rng);
      {
        auto inference = distributed::attach_inference(pair.ours.get(), {}, options_with(backend));
        REQUIRE(inference);
        REQUIRE(*inference != nullptr);
        CHECK(wrapped_layers(*pair.ours) > 0);
        for (int image = 0; image < 2; ++image) {
          testing::randomize_batch(*pair.stock, rng);
          const float* wanted = stock_network_predict(pair.stock.get(), pair.stock->input);
          const float* got = network_predict(pair.ours.get(), pair.stock->input);
          REQUIRE(testing::relative_error(got, wanted, static_cast<std::size_t>(pair.stock->outputs)) <= kOutputTolerance);
          for (int k = 0; k < pair.stock->n; ++k) {
            const layer &a = pair.ours->layers[k], &b = pair.stock->layers[k];
            if (!a.output) continue;
            CAPTURE(k);
            REQUIRE(testing::relative_error(a.output, b.output, static_cast<std::size_t>(b.outputs)) <= kOutputTolerance);
          }
        }
      }
      // Detached, it is stock Darknet's network again.
      CHECK(wrapped_layers(*pair.ours) == 0);
      const float* wanted = stock_network_predict(pair.stock.get(), pair.stock->input);
      const float* got = stock_network_predict(pair.ours.get(), pair.stock->input);
      CHECK(std::equal(wanted, wanted + pair.stock->outputs, got));
    }
}

TEST_CASE("training of every family without [distributed] gives stock Darknet's losses and weights") {
  int uncertain = 0, cases = 0;
  for (const auto family : testing::all_families())
    for (int i = 0; i < 3; ++i) {
      const auto seed = testing::seed() + 5000 + 100 * static_cast<std::uint64_t>(family) + static_cast<std::uint64_t>(i);
      Rng rng(seed);
      testing::NetworkOptions options;
      options.batch = rng.between(2, 3);
      options.subdivisions = rng.between(1, 3);
      options.may_stop_backward = rng.chance(0.3);
      options.training = "learning_rate=0.0005\nmomentum=0.9\ndecay=0.0005\nburn_in=3\npolicy=steps\nsteps=5\nscales=.1\nmax_batches=10\n";
      const std::string cfg = testing::random_network(rng, family, options);
      CAPTURE(seed);
      CAPTURE(cfg);
      const testing::Quiet quiet;
      const Pair pair(cfg, rng);
      auto engine = distributed::attach_engine(pair.ours.get(), {}, options_with(kBackends[i % 3]));
      REQUIRE(engine);
      REQUIRE(*engine != nullptr);
      CHECK(wrapped_layers(*pair.ours) > 0);
      testing::Shadows shadows(cfg, *pair.stock, seed);
      for (int iteration = 0; iteration < 8; ++iteration) {
        CAPTURE(iteration);
        const Batch batch(*pair.stock, rng);
        const float wanted = stock_train_network(pair.stock.get(), batch.stock());
        shadows.follow(*pair.stock, wanted, [&](network& net) { return stock_train_network(&net, batch.stock()); });
        const auto got = (*engine)->train_batch(pair.ours.get(), batch.ours(), {});
        REQUIRE(got);
        REQUIRE(std::fabs(*got - wanted) <= shadows.allowed_loss_error(kLossTolerance) * std::fabs(wanted));
        REQUIRE(*pair.ours->seen == *pair.stock->seen);
      }
      const double error = testing::weight_error(*pair.ours, *pair.stock);
      REQUIRE(error <= shadows.allowed_weight_error(kWeightTolerance));
      ++cases, uncertain += error > kWeightTolerance;
      // Testing in between, as the training loop does.
      const int before = pair.stock->batch;
      for (network* net : {pair.stock.get(), pair.ours.get()}) stock_set_batch_network(net, 1);
      testing::randomize_batch(*pair.stock, rng);
      std::vector<float> input(pair.stock->input, pair.stock->input + pair.stock->inputs);
      const float* outputs = stock_network_predict(pair.stock.get(), input.data());
      const std::vector<float> wanted(outputs, outputs + pair.stock->outputs);
      const float* got = network_predict(pair.ours.get(), input.data());
      CHECK(testing::relative_error(got, wanted.data(), wanted.size()) <= shadows.allowed_output_error(kWeightTolerance, input, wanted));
      for (network* net : {pair.stock.get(), pair.ours.get()}) stock_set_batch_network(net, before);
      REQUIRE((*engine)->detach(pair.ours.get()));
      CHECK(wrapped_layers(*pair.ours) == 0);
    }
  CHECK(uncertain <= testing::kMostUncertain * cases);
}

TEST_CASE("layers that cannot be wrapped stay on upstream's code, the others around them do not") {
  const std::string head =
      "[net]\nbatch=2\nheight=12\nwidth=12\nchannels=3\nlearning_rate=0.001\nmomentum=0.9\ndecay=0.0005\nmax_batches=9\n";
  const auto convolution = [](int filters, int size, int stride, int more) {
    return fmt::format("[convolutional]\nfilters={}\nsize={}\nstride={}\npad={}\nbatch_normalize={}\nactivation={}\n", filters, size,
                       stride, size > 1, more > 0, more > 0 ? "leaky" : "linear");
  };
  // A 1x1 convolution with stride 2 and a fully connected layer between the others.
  const std::string mixed = head + convolution(4, 3, 1, 1) + convolution(6, 3, 1, 1) +
                            "[convolutional]\nfilters=4\nsize=3\nstride=1\npad=1\ngroups=2\nactivation=leaky\n" + convolution(8, 3, 1, 1) +
                            convolution(4, 1, 2, 0) + convolution(5, 3, 1, 1) +
                            "[dropout]\nprobability=.0\n[connected]\noutput=3\nactivation=linear\n[softmax]\n";
  const testing::Quiet quiet;
  Rng rng(testing::seed());
  const Pair pair(mixed, rng);
  const auto ranges = distributed::equivalent_ranges(*pair.ours, {});
  REQUIRE(ranges.size() == 2);
  CHECK((ranges[0].begin == 0 && ranges[0].end == 4));  // with a grouped convolution, which upstream computes as well
  CHECK((ranges[1].begin == 5 && ranges[1].end == 6));
  const auto without = distributed::equivalent_ranges(*pair.ours, {0, 2});
  CHECK(without.size() == 2);
  auto engine = distributed::attach_engine(pair.ours.get(), {}, options_with("blas"));
  REQUIRE(engine);
  REQUIRE(*engine != nullptr);
  for (int iteration = 0; iteration < 5; ++iteration) {
    const Batch batch(*pair.stock, rng);
    const float wanted = stock_train_network(pair.stock.get(), batch.stock());
    const auto got = (*engine)->train_batch(pair.ours.get(), batch.ours(), {});
    REQUIRE(got);
    CHECK(std::fabs(*got - wanted) <= kLossTolerance * std::fabs(wanted));
  }
  CHECK(testing::weight_error(*pair.ours, *pair.stock) <= kWeightTolerance);
  CHECK(testing::relative_error(pair.ours->layers[7].weights, pair.stock->layers[7].weights,
                                static_cast<std::size_t>(pair.stock->layers[7].inputs * pair.stock->layers[7].outputs)) <=
        kWeightTolerance);

  // Nothing to wrap: no engine, and no error.
  const Pair flat(head + "[connected]\noutput=3\nactivation=linear\n[softmax]\n", rng);
  const auto none = distributed::attach_engine(flat.ours.get(), {}, options_with("auto"));
  REQUIRE(none);
  CHECK(*none == nullptr);
}

// Rules of Adam are tested in optim; here, that every array of every layer takes its steps with its own gradient, on our
// kernels and on upstream's code.
TEST_CASE("adam=1 trains on our kernels as on upstream's code, and both as the formulas say") {
  Rng rng(testing::seed());
  const std::string convolution = "[convolutional]\nfilters=8\nsize=3\npad=1\nbatch_normalize=1\nactivation=leaky\n";
  const std::string cfg =
      "[net]\nbatch=2\nsubdivisions=1\nheight=12\nwidth=12\nchannels=3\nlearning_rate=0.001\ndecay=0.0005\nmax_batches=9\n"
      "adam=1\nB1=0.8\nB2=0.9\neps=0.001\n" +
      convolution + "[maxpool]\nsize=2\nstride=2\n" + convolution + "[avgpool]\n[connected]\noutput=3\nactivation=linear\n[softmax]\n";
  const testing::Quiet quiet;
  for (const bool amsgrad : {false, true}) {
    CAPTURE(amsgrad);
    Pair pair(cfg, rng);
    for (network* net : {pair.ours.get(), pair.stock.get()}) darknet::enable_adam(net, amsgrad);
    const auto engine = distributed::attach_engine(pair.ours.get(), {}, options_with("reference"));
    REQUIRE(engine);
    REQUIRE(*engine != nullptr);
    const std::vector<float> before(pair.ours->layers[0].scales, pair.ours->layers[0].scales + 8);
    for (int iteration = 0; iteration < 4; ++iteration) {
      const Batch batch(*pair.stock, rng);
      const float wanted = stock_train_network(pair.stock.get(), batch.stock());
      const auto got = (*engine)->train_batch(pair.ours.get(), batch.ours(), {});
      REQUIRE(got);
      CHECK(std::fabs(*got - wanted) <= 10 * kLossTolerance * std::fabs(wanted));
      // Adam's first step is as long as the rate, but for eps.
      if (iteration == 0)
        for (std::size_t i = 0; i < before.size(); ++i) {
          const double step = std::fabs(pair.ours->layers[0].scales[i] - before[i]) / get_current_rate(pair.ours.get());
          CHECK((step > 0.01 && step <= 1.001));
        }
    }
    CHECK(testing::weight_error(*pair.ours, *pair.stock) <= 10 * kWeightTolerance);
    const layer &ours = pair.ours->layers[0], &stock = pair.stock->layers[0];
    CHECK(testing::relative_error(ours.v, stock.v, static_cast<std::size_t>((amsgrad ? 2 : 1) * ours.nweights)) <= 0.01);
    CHECK(testing::relative_error(ours.scale_m, stock.scale_m, 8) <= 0.01);
    CHECK(std::all_of(ours.weight_updates, ours.weight_updates + ours.nweights, [](float value) { return value == 0; }));
  }
}
