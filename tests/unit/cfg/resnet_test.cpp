// The residual networks of cfg/: made by their script, of the published size, and trained through their shortcuts.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <numeric>

#include "cfg/cfg_check.hpp"
#include "darknet/upstream/network_file.hpp"
#include "tests/support/random.hpp"
#include "tests/support/seed.hpp"

using namespace tessera;

namespace {

struct Size {
  long parameters = 0;
  double mmac = 0;
};

// Weights, biases, scales; multiplications of convolutions and fully connected layers.
Size size_of(const std::string& path) {
  const auto file = cfg::read_cfg_file(path);
  REQUIRE(file);
  const auto cfg = cfg::check_cfg(*file);
  REQUIRE_MESSAGE(cfg, cfg.error().message);
  Size size;
  const cfg::CfgSection& net = cfg->file.sections[0];
  long channels = net.integer("channels", 0), inputs = channels * net.integer("width", 0) * net.integer("height", 0);
  for (std::size_t i = 0; i < cfg->layers.size(); ++i) {
    const cfg::CfgSection& section = cfg->file.sections[i + 1];
    const cfg::LayerShape& layer = cfg->layers[i];
    if (layer.type == "convolutional") {
      const long side = section.integer("size", 1), weights = layer.c * channels * side * side;
      size.parameters += weights + (section.integer("batch_normalize", 0) ? 2 : 1) * layer.c;
      size.mmac += 1e-6 * static_cast<double>(weights * layer.h * layer.w);
    } else if (layer.type == "connected") {
      size.parameters += (inputs + 1) * layer.outputs;
      size.mmac += 1e-6 * static_cast<double>(inputs * layer.outputs);
    }
    channels = layer.c, inputs = layer.outputs;
  }
  return size;
}

std::string output_of(const std::string& command) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> pipe(::popen(command.c_str(), "r"), ::pclose);
  REQUIRE(pipe);
  std::string text;
  for (int c; (c = std::fgetc(pipe.get())) != EOF;) text += static_cast<char>(c);
  return text;
}

std::string text_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

TEST_CASE("the networks of FedGKT have the published parameters and multiplications, and are as their script makes them") {
  const std::string folder = std::string(TESSERA_SOURCE_ROOT) + "/cfg/";
  struct Published {
    const char *name, *words;
    long parameters;
    double mmac;
  };
  for (const Published& network :
       {Published{"gkt-resnet8", "edge 2", 10586, 9.62}, Published{"gkt-resnet55", "server 6", 590858, 86.8},
        Published{"gkt-resnet56", "full 6", 591322, 87.2}, Published{"gkt-resnet109", "server 12", 1147274, 167.0},
        Published{"gkt-resnet110", "full 12", 1147738, 167.4}}) {
    CAPTURE(std::string(network.name));
    const std::string path = folder + network.name + ".cfg";
    const Size size = size_of(path);
    CHECK(size.parameters == network.parameters);
    CHECK(std::fabs(size.mmac - network.mmac) <= 0.05);
    CHECK(text_of(path) == output_of(folder + "resnet.sh " + network.words));
  }
  const Size edge = size_of(folder + "gkt-resnet8.cfg"), full56 = size_of(folder + "gkt-resnet56.cfg"),
             full110 = size_of(folder + "gkt-resnet110.cfg");
  CHECK((full56.parameters / edge.parameters >= 54 && full110.parameters / edge.parameters >= 105));
  CHECK((full56.mmac / edge.mmac >= 9 && full110.mmac / edge.mmac >= 17));
}

// A 1x1 convolution of upstream's replaces the delta of its input: written the usual way, blocks would lose their shortcut's part.
TEST_CASE("a residual network's gradient goes through its shortcuts") {
  std::string folder = (std::filesystem::temp_directory_path() / "tessera-resnet-XXXXXX").string();
  REQUIRE(::mkdtemp(folder.data()) != nullptr);
  const std::string root = std::string(TESSERA_SOURCE_ROOT) + "/cfg/";
  for (const char* words : {"edge 2", "full 2"}) {
    CAPTURE(std::string(words));
    std::ofstream(folder + "/x.cfg") << output_of(root + "resnet.sh " + words +
                                                  " 4 | sed 's/batch=64/batch=4/; s/=32$/=8/; s/relu/logistic/'");
    const auto loaded = darknet::load_network_file(folder + "/x.cfg", 1);
    REQUIRE(loaded);
    network* net = loaded->net.get();
    testing::Rng rng(testing::seed());
    for (int i = 0; i < net->inputs * net->batch; ++i) net->input[i] = rng.uniform(-1, 1);
    for (int row = 0; row < net->batch; ++row) net->truth[row * net->truths + static_cast<int>(rng.below(4))] = 1;
    net->train = 1;
    const layer& stem = net->layers[0];
    const layer& last = net->layers[net->n - 1];
    const auto loss = [&] {
      forward_network(net);
      return static_cast<double>(last.cost[0]);
    };
    loss();
    backward_network(net);
    const std::vector<float> gradient(stem.weight_updates, stem.weight_updates + stem.nweights),
        before(stem.weights, stem.weights + stem.nweights);
    const double norm = std::sqrt(std::inner_product(gradient.begin(), gradient.end(), gradient.begin(), 0.0));
    REQUIRE(norm > 1e-4);
    double losses[2];
    constexpr double kStep = 0.02;
    for (const int side : {0, 1}) {
      for (std::size_t i = 0; i < gradient.size(); ++i)
        stem.weights[i] = static_cast<float>(before[i] + (side ? kStep : -kStep) * gradient[i] / norm);
      losses[side] = loss();
    }
    // Darknet's updates point downhill.
    const double slope = (losses[0] - losses[1]) / (2 * kStep);
    CHECK(std::fabs(slope / norm - 1) <= 0.05);
  }
  std::filesystem::remove_all(folder);
}
