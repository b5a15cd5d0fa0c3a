// The loss of distillation against hand-computed values and differences, and [distill] as a layer.
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <vector>

#include "darknet/upstream/network_file.hpp"
#include "plugins/distill/distill_layer.hpp"
#include "plugins/distill/distill_loss.hpp"
#include "tests/support/random.hpp"
#include "tests/support/seed.hpp"

using namespace tessera;

namespace {

struct Result {
  float loss;
  std::vector<float> output, delta;
};

Result compute(const distill::DistillSettings& settings, const std::vector<float>& logits, const std::vector<float>& truth,
               const std::vector<float>& teacher) {
  Result result{0, std::vector<float>(logits.size()), std::vector<float>(logits.size())};
  result.loss = distill::distill_loss(settings, logits, truth, teacher, result.output, result.delta);
  return result;
}

bool near(double a, double b, double tolerance) { return std::fabs(a - b) <= tolerance; }

}  // namespace

TEST_CASE("the loss of distillation is what the formula says") {
  // Two classes, T = 2. softmax(0, ln 3) = (1/4, 3/4); the student's softmax(0, 2 ln 3 / 2) = (1/4, 3/4) and the teacher's
  // softmax(0, 0) = (1/2, 1/2): KL = 1/2 ln(2) + 1/2 ln(2/3) = ln 2 - 1/2 ln 3.
  const float ln3 = std::log(3.0f);
  const auto alone = compute({2, 1}, {0, ln3}, {1, 0}, {});
  CHECK(near(alone.loss, std::log(4.0), 1e-6));
  CHECK((near(alone.output[0], 0.25, 1e-6) && near(alone.delta[0], 0.75, 1e-6) && near(alone.delta[1], -0.75, 1e-6)));
  const auto taught = compute({2, 0.5f}, {0, 2 * ln3}, {0, 1}, {5, 5});
  CHECK(near(taught.loss, std::log(10.0 / 9) + 0.5 * 4 * (std::log(2.0) - 0.5 * std::log(3.0)), 1e-6));
  // 1 - 9/10 of the cross-entropy, 0.5 · 2 · (1/2 - 3/4) of the teacher.
  CHECK(near(taught.delta[1], 0.1 - 0.25, 1e-6));
  // A teacher that agrees costs nothing; logits far apart are no reason for infinities.
  CHECK(near(compute({3, 1}, {1, 2}, {1, 0}, {11, 12}).loss, compute({3, 1}, {1, 2}, {1, 0}, {}).loss, 1e-6));
  const auto far = compute({3, 1}, {1000, -1000}, {0, 1}, {-1000, 1000});
  CHECK((std::isfinite(far.loss) && std::isfinite(far.delta[0]) && far.loss > 2000));
}

TEST_CASE("the gradient of distillation is the central difference of its loss") {
  testing::Rng rng(testing::seed());
  for (int trial = 0; trial < 50; ++trial) {
    const std::size_t classes = 2 + rng.below(9);
    std::vector<float> logits(classes), truth(classes), teacher(trial % 5 == 0 ? 0 : classes);
    for (float& value : logits) value = rng.uniform(-3, 3);
    for (float& value : teacher) value = rng.uniform(-6, 6);
    truth[rng.below(classes)] = 1;
    const distill::DistillSettings settings{rng.uniform(0.5f, 5), rng.uniform(0, 2)};
    const auto at = compute(settings, logits, truth, teacher);
    for (std::size_t c = 0; c < classes; ++c) {
      constexpr float kStep = 0.01f;
      std::vector<float> above = logits, below = logits;
      above[c] += kStep, below[c] -= kStep;
      const double slope = (compute(settings, above, truth, teacher).loss - compute(settings, below, truth, teacher).loss) /
                           (static_cast<double>(above[c]) - below[c]);
      CAPTURE(trial);
      CHECK(near(-at.delta[c], slope, 2e-3));
    }
  }
}

TEST_CASE("[distill] trains the cross-entropy alone where there is no teacher") {
  const std::string path = (std::filesystem::temp_directory_path() / "tessera-distill-XXXXXX").string();
  std::string folder = path;
  REQUIRE(::mkdtemp(folder.data()) != nullptr);
  std::ofstream(folder + "/x.cfg") << "[net]\nbatch=2\nwidth=1\nheight=1\nchannels=3\n[connected]\noutput=3\nactivation=linear\n"
                                      "[distill]\ntemperature=4\nalpha=0.5\n";
  const auto loaded = darknet::load_network_file(folder + "/x.cfg", 1);
  std::filesystem::remove_all(folder);
  REQUIRE(loaded);
  network* net = loaded->net.get();
  distill::install(net, loaded->cfg);
  REQUIRE(net->truths == 7);
  const std::vector<float> input{1, 2, 3, -1, 0, 2}, truth{0, 1, 0, 9, 9, 9, 0, 1, 0, 0, 4, -2, 1, 1};
  std::copy(input.begin(), input.end(), net->input);
  std::copy(truth.begin(), truth.end(), net->truth);
  net->train = 1;
  forward_network(net);
  const layer &connected = net->layers[0], &last = net->layers[1];
  double sum = 0;
  for (int row = 0; row < 2; ++row) {
    const std::vector<float> logits(connected.output + 3 * row, connected.output + 3 * row + 3);
    const auto begin = truth.begin() + 7 * row;
    const auto wanted =
        compute({4, 0.5f}, logits, {begin, begin + 3}, row == 0 ? std::vector<float>() : std::vector<float>(begin + 3, begin + 6));
    sum += wanted.loss;
    for (int c = 0; c < 3; ++c) {
      CHECK(last.output[3 * row + c] == wanted.output[static_cast<std::size_t>(c)]);
      CHECK(last.delta[3 * row + c] == wanted.delta[static_cast<std::size_t>(c)]);
    }
  }
  CHECK(near(last.cost[0], sum, 1e-5));
  // Outputs in a test are the plain softmax's.
  const float* output = network_predict(net, net->input);
  CHECK(near(output[0] + output[1] + output[2], 1, 1e-6));
}
