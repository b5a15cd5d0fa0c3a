// AlexeyAB's dialect against numbers that AlexeyAB's own program printed (alexeyab/README.md).
#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include <darknet.h>
#include "darknet/commands/engines.hpp"
#include "darknet/training/evaluate.hpp"
#include "darknet/upstream/network_file.hpp"
#include "darknet/upstream/weights_file.hpp"
#include "data/image_file.hpp"
#include "data/label_file.hpp"
#include "tests/support/wrapped_network.hpp"

using namespace tessera;
namespace samples = tessera::data;

namespace {

constexpr const char* kCases[] = {"yolov4-tiny", "yolov4-csp", "enet", "gaussian", "loss-keys", "misc-layers", "sam-reorg3d", "relu6"};

std::string path(const std::string& name, const std::string& file) {
  return std::string(TESSERA_SOURCE_ROOT) + "/tests/equivalence/alexeyab/" + name + "/" + file;
}

// Numbers of a table with a line of headings; words count as 0.
std::vector<std::vector<double>> table(const std::string& file) {
  std::ifstream in(file);
  REQUIRE(in.is_open());
  std::vector<std::vector<double>> rows;
  std::string line;
  std::getline(in, line);
  while (std::getline(in, line)) {
    std::istringstream words(line);
    std::vector<double>& row = rows.emplace_back();
    for (std::string word; words >> word;) row.push_back(std::strtod(word.c_str(), nullptr));
  }
  REQUIRE(!rows.empty());
  return rows;
}

darknet::EngineOptions on(const std::string& backend) {
  darknet::EngineOptions options;
  options.backend = backend;
  return options;
}

void check_detections(const std::string& name, const std::string& backend) {
  CAPTURE(name);
  CAPTURE(backend);
  std::vector<observe::DetectedObject> found;
  {
    const testing::Quiet quiet;
    auto loaded = darknet::load_network_file(path(name, "net.cfg"), 0);
    REQUIRE(loaded);
    network* net = loaded->net.get();
    REQUIRE(darknet::load_weights_file(net, path(name, "net.weights"), {0, 1 << 30, true}));
    set_batch_network(net, 1);
    auto inference = darknet::attach_inference(net, loaded->cfg.distributed, on(backend));
    REQUIRE(inference);
    const auto picture = samples::read_image(path(name, "test1.png"));
    REQUIRE(picture);
    found = darknet::detect_objects(net, *picture, {0.05f, 0.5f, 0.45f});
  }
  // stage, picture, class, probability, objectness, x, y, w, h
  const auto wanted = table(path(name, "detections.tsv"));
  REQUIRE(found.size() == wanted.size());
  for (const auto& row : wanted) {
    double nearest = 1;
    for (const auto& object : found) {
      if (object.class_id != static_cast<int>(row[2])) continue;
      const double values[] = {object.score, object.box.x, object.box.y, object.box.w, object.box.h},
                   expected[] = {row[3], row[5], row[6], row[7], row[8]};
      double worst = 0;
      for (int i = 0; i < 5; ++i) worst = std::max(worst, std::abs(values[i] - expected[i]) - 1e-4 * std::abs(expected[i]));
      nearest = std::min(nearest, worst);
    }
    CHECK_MESSAGE(nearest <= 1e-5, "class ", row[2], ", probability ", row[3]);
  }
}

// Four iterations on copies of the scene.
struct Trained {
  std::vector<double> losses;
  std::vector<float> weights;
};

Trained train(const std::string& name, darknet::Gradients gradients, const std::string& backend) {
  const testing::Quiet quiet;
  const std::string cfg = std::filesystem::exists(path(name, "train.cfg")) ? "train.cfg" : "net.cfg";
  auto loaded = darknet::load_network_file(path(name, cfg), 0, gradients);
  REQUIRE(loaded);
  network* net = loaded->net.get();
  REQUIRE(darknet::load_weights_file(net, path(name, "net.weights"), {0, 1 << 30, true}));
  *net->seen = 0;
  auto engine = darknet::attach(net, loaded->cfg.distributed, on(backend));
  REQUIRE(engine);
  const auto picture = samples::read_image(path(name, "scene.png"));
  const auto labels = samples::read_labels(path(name, "scene.txt"));
  REQUIRE(picture);
  REQUIRE(labels);
  std::vector<float> planes(static_cast<std::size_t>(net->inputs)), truth(static_cast<std::size_t>(net->truths));
  samples::stretch(*picture, net->w, net->h, planes.data());
  for (std::size_t i = 0; i < labels->size(); ++i) {
    const samples::Label& l = (*labels)[i];
    const float values[] = {static_cast<float>(l.x), static_cast<float>(l.y), static_cast<float>(l.w), static_cast<float>(l.h),
                            static_cast<float>(l.class_id)};
    std::copy_n(values, 5, truth.begin() + static_cast<long>(5 * i));
  }
  std::vector<float*> inputs(static_cast<std::size_t>(net->batch), planes.data()), truths(inputs.size(), truth.data());
  const samples::Batch batch{{net->batch, net->w, net->h, net->c, net->truths}, inputs, truths};
  Trained result;
  for (int i = 0; i < 4; ++i) {
    const auto loss = (*engine)->train_batch(net, batch, {});
    REQUIRE(loss);
    result.losses.push_back(*loss);
  }
  REQUIRE((*engine)->detach(net));
  const std::string saved = (std::filesystem::temp_directory_path() / ("alexeyab-" + std::to_string(::getpid()) + ".weights")).string();
  REQUIRE(darknet::save_weights_file(net, saved));
  std::ifstream in(saved, std::ios::binary);
  in.seekg(20);
  for (float value; in.read(reinterpret_cast<char*>(&value), sizeof value);) result.weights.push_back(value);
  std::filesystem::remove(saved);
  return result;
}

void check_losses(const Trained& trained, const std::string& file) {
  const auto wanted = table(file);
  REQUIRE(wanted.size() == trained.losses.size());
  for (std::size_t i = 0; i < wanted.size(); ++i)
    CHECK_MESSAGE(std::abs(trained.losses[i] / wanted[i][1] - 1) <= (i == 0 ? 1e-4 : 1e-3), "iteration ", i + 1, ": ", trained.losses[i],
                  ", not ", wanted[i][1]);
}

}  // namespace

TEST_CASE("AlexeyAB's dialect: the same objects are found") {
  for (const char* name : kCases) check_detections(name, "reference");
}

TEST_CASE("AlexeyAB's dialect: the same losses and weights, with true gradients") {
  for (const char* name : kCases) {
    CAPTURE(name);
    const Trained trained = train(name, darknet::Gradients::kTrue, "reference");
    check_losses(trained, path(name, "losses.txt"));
    std::ifstream in(path(name, "final.weights"), std::ios::binary);
    in.seekg(20);
    std::size_t at = 0;
    double worst = 0;
    for (float value; in.read(reinterpret_cast<char*>(&value), sizeof value); ++at) {
      REQUIRE(at < trained.weights.size());
      worst = std::max(worst, std::abs(static_cast<double>(value) - trained.weights[at]));
    }
    CHECK(at == trained.weights.size());
    CHECK(worst <= 1e-3);
  }
}

TEST_CASE("AlexeyAB's dialect: the same losses with upstream's gradients") {
  for (const char* name : kCases) {
    CAPTURE(name);
    check_losses(train(name, darknet::Gradients::kStock, "reference"), path(name, "losses_overwrite1x1.txt"));
  }
}
