// `classifier train` with [gkt], as a program: it learns, and goes on after kill -9 to the same bits.
#include <doctest/doctest.h>

#include <csignal>

#include "data/packed_images.hpp"
#include "tests/cluster/commands_fixture.hpp"
#include "tests/support/random.hpp"
#include "tests/support/worker_process.hpp"

using namespace tessera;

namespace {

// Pictures of 8x8 with a bright left, right or middle.
void write_set(const testing::Workshop& workshop, const std::string& name, int count, int classes) {
  testing::Rng rng(7);
  std::string pixels, labels;
  for (int i = 0; i < count; ++i) {
    labels += static_cast<char>(i % classes);
    for (int y = 0; y < 8; ++y)
      for (int x = 0; x < 8; ++x) pixels += static_cast<char>(static_cast<int>(rng.below(90)) + (x / 3 == i % classes ? 120 : 0));
  }
  workshop.write(name + ".images", data::idx_images(static_cast<std::size_t>(count), 8, 8, pixels));
  workshop.write(name + ".labels", data::idx_labels(labels));
}

std::string net(int side, int channels) {
  return "[net]\nbatch=8\nwidth=" + std::to_string(side) + "\nheight=" + std::to_string(side) + "\nchannels=" + std::to_string(channels) +
         "\nlearning_rate=0.01\nadam=1\namsgrad=1\nmax_batches=10000\n[convolutional]\nfilters=4\nsize=3\npad=1\nbatch_normalize=1\n"
         "activation=relu\n[connected]\noutput=3\nactivation=linear\n[softmax]\n";
}

void prepare(const testing::Workshop& workshop, const std::string& gkt) {
  write_set(workshop, "train", 90, 3);
  write_set(workshop, "valid", 30, 3);
  workshop.write("labels.txt", "left\nmiddle\nright\n");
  workshop.write("gkt.data",
                 "classes=3\nlabels=labels.txt\ntrain=idx:train.images:train.labels\nvalid=idx:valid.images:valid.labels\n"
                 "test=idx:valid.images:valid.labels\naugment=pad=1\nbackup=backup\n");
  workshop.write("edge.cfg", net(8, 1));
  workshop.write("server.cfg", net(8, 4) + "[gkt]\nedge=edge.cfg\n" + gkt);
}

}  // namespace

TEST_CASE("[gkt] trains a pair of networks, with the published flaws and federated averaging as variants") {
  const testing::Workshop workshop;
  for (const char* variant : {"", "average=0\nmatch=index\nlogits=train\n", "transfer=none\n"}) {
    CAPTURE(std::string(variant));
    prepare(workshop, std::string("edges=3\nrounds=4\nserver_epochs=2\n") + variant);
    const auto run = workshop.run({"classifier", "train", "gkt.data", "server.cfg"});
    REQUIRE_MESSAGE(run.code == 0, run.err);
    const std::size_t at = run.out.find("test: accuracy ");
    REQUIRE(at != std::string::npos);
    CHECK(std::stod(run.out.substr(at + 15)) >= 80);
    for (const char* file : {"server_best.weights", "edge_best.weights", "server_rounds.csv", "server_rounds.png", "server.gkt"})
      CHECK(workshop.has(std::string("backup/") + file));
  }
  workshop.write("alone.cfg", net(8, 1) + "[gkt]\nmethod=fedavg\nedges=3\nlda=1\nrounds=4\n");
  const auto run = workshop.run({"classifier", "train", "gkt.data", "alone.cfg"});
  REQUIRE_MESSAGE(run.code == 0, run.err);
  CHECK(run.out.find("round 4 edge 2: ") != std::string::npos);
}

TEST_CASE("[gkt] after kill -9 goes on to the same bits") {
  const testing::Workshop whole, killed;
  for (const auto* workshop : {&whole, &killed}) prepare(*workshop, "edges=3\nrounds=6\nserver_epochs=2\n");
  REQUIRE(whole.run({"classifier", "train", "gkt.data", "server.cfg"}).code == 0);
  {
    testing::Process process({testing::program(), "classifier", "train", "gkt.data", "server.cfg"}, killed.path("."));
    process.wait_for_line("round 2 of 6", 60);
    process.signal(SIGKILL);
    process.wait(60);
  }
  const auto rest = killed.run({"classifier", "train", "gkt.data", "server.cfg", "-resume"});
  REQUIRE_MESSAGE(rest.code == 0, rest.err);
  CHECK(rest.out.find("-resume: round ") != std::string::npos);
  for (const char* file : {"server_best.weights", "edge_best.weights"})
    CHECK(whole.read(std::string("backup/") + file) == killed.read(std::string("backup/") + file));
  const auto wrong = killed.run({"classifier", "train", "gkt.data", "server.cfg", "-resume", "-seed", "5"});
  CHECK(wrong.code == 1);
  CHECK(wrong.err.find("belongs to other cfgs") != std::string::npos);
}

TEST_CASE("[gkt] names what does not fit") {
  const testing::Workshop workshop;
  prepare(workshop, "edges=3\nrounds=1\n");
  const auto error = [&] {
    const auto run = workshop.run({"classifier", "train", "gkt.data", "server.cfg"});
    CHECK(run.code == 1);
    return run.err;
  };
  workshop.write("server.cfg", net(8, 3) + "[gkt]\nedge=edge.cfg\n");
  CHECK(error().find("server.cfg: has 192 inputs, but the edges' first layer gives 256 features") != std::string::npos);
  workshop.write("server.cfg", net(8, 4) + "[gkt]\nedge=edge.cfg\nedgess=3\n");
  CHECK(error().find("did you mean 'edges'?") != std::string::npos);
  workshop.write("server.cfg", net(8, 4) + "[gkt]\nedge=edge.cfg\nedges=20\nrounds=1\n");  // five pictures each, batch 8
  const auto run = workshop.run({"classifier", "train", "gkt.data", "server.cfg"});
  CHECK(run.code == 0);
  CHECK(run.out.find("fewer than a batch of 8") != std::string::npos);
  workshop.write("train.images", workshop.read("train.images").substr(0, 500));
  CHECK(error().find("train.images") != std::string::npos);
}
