// Weights files against stock Darknet's, both ways, and what is refused.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "darknet/upstream/adam.hpp"
#include "darknet/upstream/network_file.hpp"
#include "darknet/upstream/weights_file.hpp"
#include "darknet/upstream/weights_layout.hpp"
#include "tests/support/oracle.hpp"

using namespace tessera;
using namespace tessera::darknet;

namespace {

const char* const kCfg =
    "[net]\nbatch=2\nwidth=16\nheight=16\nchannels=3\n"
    "[convolutional]\nbatch_normalize=1\nfilters=4\nsize=3\npad=1\nactivation=leaky\n"
    "[convolutional]\nfilters=4\nsize=3\nstride=2\npad=1\ngroups=2\nactivation=leaky\n"
    "[maxpool]\nsize=2\nstride=2\n"
    "[batchnorm]\n"
    "[local]\nfilters=2\nsize=3\npad=1\nactivation=leaky\n"
    "[connected]\nbatch_normalize=1\noutput=5\nactivation=leaky\n"
    "[connected]\noutput=3\nactivation=linear\n"
    "[softmax]\n[cost]\n";

class Files {
 public:
  Files() {
    std::string pattern = (std::filesystem::temp_directory_path() / "tessera-weights-XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    folder_ = pattern;
    std::ofstream(folder_ / "x.cfg") << kCfg;
  }
  ~Files() { std::filesystem::remove_all(folder_); }
  std::string path(const char* name) const { return (folder_ / name).string(); }
  std::string read(const char* name) const {
    std::ifstream file(folder_ / name, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void write(const char* name, const std::string& bytes) const { std::ofstream(folder_ / name, std::ios::binary) << bytes; }

 private:
  std::filesystem::path folder_;
};

LoadedNetwork load(const Files& files, std::uint64_t seed) {
  auto loaded = load_network_file(files.path("x.cfg"), seed);
  REQUIRE(loaded);
  return std::move(*loaded);
}

void number_all(network* net, float start) {
  for (int i = 0; i < net->n; ++i)
    for (const WeightBlock& block : weight_blocks(net->layers[i], LayoutUse::kSave))
      for (std::size_t k = 0; k < block.count; ++k) block.values[k] = start += 0.25f;
}

bool same_weights(const network* a, const network* b) {
  for (int i = 0; i < a->n; ++i) {
    const auto left = weight_blocks(a->layers[i], LayoutUse::kSave), right = weight_blocks(b->layers[i], LayoutUse::kSave);
    if (left.size() != right.size()) return false;
    for (std::size_t k = 0; k < left.size(); ++k)
      if (left[k].count != right[k].count || std::memcmp(left[k].values, right[k].values, left[k].count * sizeof(float)) != 0) return false;
  }
  return true;
}

}  // namespace

TEST_CASE("weights files are stock Darknet's to the byte, and stock reads ours") {
  const Files files;
  LoadedNetwork ours = load(files, 1);
  number_all(ours.net.get(), 0);
  *ours.net->seen = 12345;
  REQUIRE(save_weights_file(ours.net.get(), files.path("ours.weights")));
  std::string stock_path = files.path("stock.weights");
  stock_save_weights(ours.net.get(), stock_path.data());
  CHECK(files.read("ours.weights") == files.read("stock.weights"));
  CHECK_FALSE(std::filesystem::exists(files.path("ours.weights.tmp")));

  const tessera::testing::StockNetwork stock = tessera::testing::parse_stock_network(kCfg);
  std::string path = files.path("ours.weights");
  stock_load_weights(stock.get(), path.data());
  CHECK(*stock->seen == 12345);
  CHECK(same_weights(ours.net.get(), stock.get()));

  LoadedNetwork again = load(files, 2);
  CHECK_FALSE(same_weights(ours.net.get(), again.net.get()));
  const auto info = load_weights_file(again.net.get(), stock_path);
  REQUIRE(info);
  CHECK(info->seen == 12345);
  CHECK(info->layers == 6);
  CHECK(info->layers_total == 6);
  CHECK(same_weights(ours.net.get(), again.net.get()));
  CHECK(*again.net->seen == 12345);
}

TEST_CASE("a file of the first layers fills those and leaves the rest; complete ones are asked for in tests") {
  const Files files;
  LoadedNetwork ours = load(files, 1);
  number_all(ours.net.get(), 0);
  REQUIRE(save_weights_file(ours.net.get(), files.path("part"), 2));
  LoadedNetwork other = load(files, 2);
  const float untouched = other.net->layers[6].weights[0];
  const auto info = load_weights_file(other.net.get(), files.path("part"));
  REQUIRE(info);
  CHECK(info->layers == 2);
  CHECK(info->next_layer == 3);
  CHECK(other.net->layers[1].weights[0] == ours.net->layers[1].weights[0]);
  CHECK(other.net->layers[6].weights[0] == untouched);
  LoadRange all;
  all.complete = true;
  const auto refused = load_weights_file(other.net.get(), files.path("part"), all);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().message.find("layer 3 (batchnorm)") != std::string::npos);
}

TEST_CASE("a file that does not fit changes nothing and names the layer") {
  const Files files;
  LoadedNetwork ours = load(files, 1);
  number_all(ours.net.get(), 0);
  REQUIRE(save_weights_file(ours.net.get(), files.path("good")));
  const std::string good = files.read("good");
  LoadedNetwork target = load(files, 2);
  const LoadedNetwork same = load(files, 2);
  for (const std::string& bytes :
       {good.substr(0, good.size() - 4), good + "abcd", good.substr(0, 100), good.substr(0, 10), std::string()}) {
    CAPTURE(bytes.size());
    files.write("bad", bytes);
    const auto refused = load_weights_file(target.net.get(), files.path("bad"));
    REQUIRE_FALSE(refused);
    CHECK(refused.error().message.find("bad: ") != std::string::npos);
    CHECK(same_weights(target.net.get(), same.net.get()));
  }
  files.write("bad", good.substr(0, good.size() - 4));
  CHECK(load_weights_file(target.net.get(), files.path("bad")).error().message.find("layer 6 (connected)") != std::string::npos);
  std::string wrong = good;
  const float nan = NAN;
  std::memcpy(wrong.data() + 24, &nan, sizeof nan);
  files.write("bad", wrong);
  CHECK(load_weights_file(target.net.get(), files.path("bad")).error().message.find("not all numbers") != std::string::npos);
}

TEST_CASE("headers with a 32-bit count are read, 64-bit ones written") {
  const Files files;
  LoadedNetwork ours = load(files, 1);
  number_all(ours.net.get(), 0);
  *ours.net->seen = 77;
  REQUIRE(save_weights_file(ours.net.get(), files.path("wide")));
  const std::string wide = files.read("wide");
  files.write("narrow", wide.substr(0, 16) + wide.substr(20));
  LoadedNetwork other = load(files, 2);
  const auto info = load_weights_file(other.net.get(), files.path("narrow"));
  REQUIRE(info);
  CHECK(info->seen == 77);
  CHECK(same_weights(ours.net.get(), other.net.get()));
  std::string old = wide.substr(0, 16) + wide.substr(20);
  old[4] = 1;  // version 0.1: 32-bit count on every machine
  files.write("old", old);
  CHECK(load_weights_file(other.net.get(), files.path("old")));
}

TEST_CASE("values that are no numbers are not saved, and the earlier file stays") {
  const Files files;
  LoadedNetwork ours = load(files, 1);
  REQUIRE(save_weights_file(ours.net.get(), files.path("x")));
  const std::string before = files.read("x");
  CHECK(first_bad_layer(ours.net.get()).empty());
  ours.net->layers[1].weights[3] = INFINITY;
  const auto refused = save_weights_file(ours.net.get(), files.path("x"));
  REQUIRE_FALSE(refused);
  CHECK(refused.error().message.find("layer 1 (convolutional)") != std::string::npos);
  CHECK(first_bad_layer(ours.net.get()) == "layer 1 (convolutional), in its weights");
  CHECK(files.read("x") == before);
  CHECK_FALSE(std::filesystem::exists(files.path("x.tmp")));
  CHECK_FALSE(save_weights_file(ours.net.get(), files.path("no/such/folder/x")));
}

TEST_CASE("momentum comes back bit by bit, to its own weights only") {
  const Files files;
  LoadedNetwork ours = load(files, 1), other = load(files, 1);
  float value = 0;
  for (int i = 0; i < ours.net->n; ++i)
    for (const WeightBlock& block : momentum_blocks(*ours.net, ours.net->layers[i]))
      for (std::size_t k = 0; k < block.count; ++k) block.values[k] = value += 0.5f;
  REQUIRE(value > 0);
  *ours.net->t = 9;
  const std::string momentum = momentum_image(ours.net.get());
  REQUIRE(load_momentum(other.net.get(), momentum, "m"));
  CHECK(*other.net->t == 9);
  CHECK(other.net->layers[0].scale_updates[1] == ours.net->layers[0].scale_updates[1]);
  CHECK(other.net->layers[6].weight_updates[2] == ours.net->layers[6].weight_updates[2]);
  CHECK_FALSE(load_momentum(other.net.get(), momentum + "x", "m"));
  CHECK_FALSE(load_momentum(other.net.get(), momentum.substr(0, momentum.size() - 1), "m"));
  CHECK_FALSE(load_momentum(other.net.get(), "", "m"));
}

TEST_CASE("Adam's moments are saved with the momentum, AMSGrad's largest ones, too") {
  const Files files;
  std::string cfg = kCfg;
  files.write("x.cfg", cfg.insert(cfg.find("batch=2"), "adam=1\namsgrad=1\n"));
  LoadedNetwork ours = load(files, 1), other = load(files, 1);
  CHECK(ours.net->adam == kAmsgrad);
  const layer &convolution = ours.net->layers[0], &connected = ours.net->layers[6];
  convolution.v[2 * convolution.nweights - 1] = 3;
  convolution.scale_v[7] = 4;
  connected.m[5] = 5;
  const std::string moments = momentum_image(ours.net.get());
  REQUIRE(load_momentum(other.net.get(), moments, "m"));
  CHECK(other.net->layers[0].v[2 * convolution.nweights - 1] == 3);
  CHECK(other.net->layers[0].scale_v[7] == 4);
  CHECK(other.net->layers[6].m[5] == 5);
  files.write("x.cfg", kCfg);
  CHECK_FALSE(load_momentum(load(files, 1).net.get(), moments, "m"));
}

TEST_CASE("upstream's own save and load go through the seams") {
  const Files files;
  LoadedNetwork ours = load(files, 1), other = load(files, 2);
  std::string path = files.path("seam");
  save_weights(ours.net.get(), path.data());
  files.write("torn", files.read("seam").substr(0, 60));
  load_weights(other.net.get(), path.data());
  CHECK(same_weights(ours.net.get(), other.net.get()));
  std::string torn = files.path("torn");
  CHECK_THROWS(load_weights(other.net.get(), torn.data()));
  std::string absent = files.path("absent.cfg");
  CHECK_THROWS(parse_network_cfg(absent.data()));
  files.write("wrapped.cfg", std::string(kCfg).insert(std::string(kCfg).find("[convolutional]"), "[distributed]\nworkers=local:1\n"));
  std::string wrapped = files.path("wrapped.cfg");
  network* net = parse_network_cfg(wrapped.data());
  CHECK(net->n == ours.net->n);
  free_network(net);
}
