// Weights loaded and saved while a session is open.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "darknet/commands/engines.hpp"
#include "darknet/upstream/weights_file.hpp"
#include "tests/support/training_run.hpp"

namespace tessera {
namespace {

std::vector<float> outputs(network* net, const std::vector<float>& image) {
  std::vector<float> input = image;
  const float* result = network_predict(net, input.data());
  return {result, result + net->outputs};
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) difference += std::pow(a[i] - b[i], 2), norm += std::pow(b[i], 2);
  return std::sqrt(difference / norm);
}

darknet::LoadedNetwork load(const std::string& cfg, std::uint64_t seed) {
  auto loaded = darknet::load_network_file(cfg, seed);
  REQUIRE_MESSAGE(loaded, (loaded ? "" : loaded.error().message));
  set_batch_network(loaded->net.get(), 1);
  return std::move(*loaded);
}

TEST_CASE("weights loaded in the middle of a session are the workers' weights at once, and are saved unchanged") {
  const testing::TrainingFolder folder;
  testing::TrainingCfg cfg;
  folder.write("plain.cfg", cfg.text());
  cfg.distributed = {"workers=local:2"};
  folder.write("tiles.cfg", cfg.text());

  const darknet::LoadedNetwork plain = load(folder.path("plain.cfg"), 1), tiles = load(folder.path("tiles.cfg"), 2);
  network *stock = plain.net.get(), *wrapped = tiles.net.get();
  std::vector<float> image(static_cast<std::size_t>(stock->inputs));
  for (std::size_t i = 0; i < image.size(); ++i) image[i] = static_cast<float>(0.5 + 0.5 * std::sin(0.37 * static_cast<double>(i)));

  darknet::EngineOptions options;
  options.program = TESSERA_DARKNET;
  auto engine = darknet::attach(wrapped, tiles.cfg.distributed, options);
  REQUIRE_MESSAGE(engine, (engine ? "" : engine.error().message));
  const auto wanted = outputs(stock, image);
  CHECK(distance(outputs(wrapped, image), wanted) > 1e-3);  // other random weights

  REQUIRE(darknet::save_weights_file(stock, folder.path("a.weights")));
  REQUIRE(darknet::load_weights_file(wrapped, folder.path("a.weights"), {}));
  CHECK(distance(outputs(wrapped, image), wanted) <= 1e-5);
  REQUIRE(darknet::save_weights_file(wrapped, folder.path("b.weights")));
  CHECK(folder.read("a.weights") == folder.read("b.weights"));
  REQUIRE((*engine)->detach(wrapped));
}

}  // namespace
}  // namespace tessera
