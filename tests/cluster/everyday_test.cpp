// What people really bring: files of other editors and other programs, damaged pictures, arguments in another order.
#include <doctest/doctest.h>

#include <algorithm>

#include "tests/cluster/commands_fixture.hpp"

using tessera::testing::Outcome;
using tessera::testing::Workshop;
using namespace std::string_literals;

namespace {

const std::vector<std::string> kTrain = {"detector", "train", "obj.data", "short.cfg", "-dont_show"};

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

void expect(const Outcome& outcome, int code, const std::vector<std::string>& parts) {
  INFO(outcome.out);
  INFO(outcome.err);
  CHECK(outcome.code == code);
  for (const std::string& part : parts) CHECK_MESSAGE((outcome.out + outcome.err).find(part) != std::string::npos, "wanted: ", part);
}

std::string utf16(const std::string& text) {
  std::string bytes = "\xFF\xFE";
  for (const char c : text) bytes += {c, '\0'};
  return bytes;
}

void make_short(const Workshop& workshop) { workshop.derive_cfg("short.cfg", "max_batches=20", "max_batches=2"); }

void train_short(const Workshop& workshop) {
  make_short(workshop);
  REQUIRE(workshop.run(kTrain).code == 0);
}

}  // namespace

TEST_CASE("every text file may be UTF-16 or begin with a byte order mark") {
  const Workshop workshop;
  make_short(workshop);
  for (const std::string file : {"train.txt", "obj.data", "obj.names", "labels/square0.txt", "short.cfg"}) {
    CAPTURE(file);
    const std::string before = workshop.read(file);
    for (const std::string& bytes : {utf16(before), "\xEF\xBB\xBF" + before}) {
      workshop.write(file, bytes);
      expect(workshop.run(kTrain), 0, {"preflight: 24 training images with 24 objects"});
    }
    workshop.write(file, before);
  }
}

TEST_CASE("files may be given in any order, and one of another kind is named") {
  const Workshop workshop;
  train_short(workshop);
  expect(workshop.run({"detector", "train", "short.cfg", "obj.data", "-clear"}), 0, {"saved backup/short_final.weights"});
  expect(workshop.run({"detector", "map", "backup/short_final.weights", "short.cfg", "obj.data"}), 0, {"mean average precision"});
  workshop.write("page.weights", "<!DOCTYPE html>\n<html><body>Not found</body></html>\n");
  expect(workshop.run({"detector", "map", "obj.data", "short.cfg", "page.weights"}), 1,
         {"page.weights: is no weights file; it is a web page"});
  workshop.write("torch.weights", "PK\x03\x04" + std::string(100, 'x'));
  expect(workshop.run({"detector", "map", "obj.data", "short.cfg", "torch.weights"}), 1, {"PyTorch"});
  expect(workshop.run({"detector", "train", "tiny.cfg", "short.cfg"}), 1, {"is a section of a cfg file"});
}

TEST_CASE("whatever tests looks at its lists first, as training does") {
  const Workshop workshop;
  train_short(workshop);
  const std::string weights = "backup/short_final.weights";
  workshop.remove("labels/square24.txt");
  expect(workshop.run({"detector", "map", "obj.data", "short.cfg", weights}), 0,
         {"1 of 8 valid images have no label file", "square24.txt"});
  workshop.write("labels/square24.txt", "0 nan 0.5 0.1 0.1\n");
  expect(workshop.run({"detector", "recall", "obj.data", "short.cfg", weights}), 1, {"labels/square24.txt:1"});
  workshop.write("labels/square0.txt", "0 40 30 32 24\n");
  expect(workshop.run({"detector", "calc_anchors", "obj.data", "-num_of_clusters", "2"}), 1, {"labels/square0.txt:1"});
  workshop.remove("images/square24.png");
  expect(workshop.run({"detector", "valid", "obj.data", "short.cfg", weights}), 1, {"square24.png", "take it out of the valid list"});
}

TEST_CASE("labels beside the images of a folder `images`; data without objects, and a class that never occurs") {
  const Workshop workshop;
  make_short(workshop);
  for (int i = 0; i < 24; ++i) {
    const std::string name = (i % 2 ? "disc" : "square") + std::to_string(i) + ".txt";
    workshop.write("images/" + name, "0 0.5 0.5 0.3 0.3\n");
  }
  workshop.remove("labels");
  expect(workshop.run(kTrain), 0, {"24 training images with 24 objects", "no train image has an object of class 1 (disc)"});
  for (int i = 0; i < 24; ++i) workshop.write("images/" + ((i % 2 ? "disc" : "square") + std::to_string(i)) + ".txt", "");
  expect(workshop.run(kTrain), 1, {"none of the 24 images of train= has an object"});
}

TEST_CASE("a picture that ends early is named once, by us, and not trained on") {
  const Workshop workshop;
  make_short(workshop);
  const std::string whole = workshop.read("images/square0.png");
  workshop.write("images/square0.png", whole.substr(0, whole.size() / 2));
  const Outcome outcome = workshop.run(kTrain);
  expect(outcome, 0, {"1 of 24 train images cannot be read and are skipped"});
  CHECK(count(outcome.err, "square0.png") == 1);
  CHECK(count(outcome.err, "libpng") == 0);
  CHECK(workshop.read("bad.list").find("square0.png") != std::string::npos);
}

TEST_CASE("more objects in a picture than the head can be told of are announced") {
  const Workshop workshop;
  make_short(workshop);
  std::string labels;
  for (int i = 0; i < 120; ++i) labels += "0 0.5 0.5 0.1 0.1\n";
  workshop.write("labels/square0.txt", labels);
  expect(workshop.run(kTrain), 0, {"1 of 24 train images have more than 90 objects", "images/square0.png"});
}

TEST_CASE("tests take one picture at a time, whatever the cfg's batch is") {
  const Workshop workshop;
  train_short(workshop);
  workshop.derive_cfg("odd.cfg", "subdivisions=2", "subdivisions=16");
  workshop.derive_cfg("huge.cfg", "batch=8", "batch=800000");
  for (const std::string cfg : {"odd.cfg", "huge.cfg"}) {
    expect(workshop.run({"detector", "test", "obj.data", cfg, "backup/short_final.weights", "images/disc25.png"}), 0, {"Predicted in"});
    expect(workshop.run({"detector", "train", "obj.data", cfg}), 1, {cfg == "odd.cfg" ? "no multiple" : "memory"});
  }
}

TEST_CASE("all refusals of a cfg come in one run, with what each would change; what means nothing here is accepted") {
  const Workshop workshop;
  workshop.derive_cfg("many.cfg", "jitter=.1", "jiter=.1\nembedding_layer=3");
  workshop.derive_cfg("many.cfg", "burn_in=5", "burn_in=5\ncontrastive=1\nloss_scale=128", "many.cfg");
  const Outcome outcome = workshop.run({"detector", "train", "obj.data", "many.cfg"});
  expect(outcome, 1,
         {"[net] has no key 'contrastive': it changes training only", "'embedding_layer': it changes what a trained network finds",
          "did you mean 'jitter'?"});
  CHECK(count(outcome.err, "darknet: many.cfg:") == 3);
  workshop.derive_cfg("fine.cfg", "max_batches=20", "max_batches=2\nloss_scale=128\ncontrastive=0");
  expect(workshop.run({"detector", "train", "obj.data", "fine.cfg"}), 0, {"without effect here: loss_scale", "contrastive"});
}

TEST_CASE("files that the cfg names are looked for before upstream's code does") {
  const Workshop workshop;
  workshop.derive_cfg("a.cfg", "thresh=.6", "thresh=.6\ntree=nowhere.tree", "region.cfg");
  expect(workshop.run({"detector", "train", "obj.data", "a.cfg"}), 1, {"nowhere.tree", "cannot open"});
  workshop.write("bad.tree", "a -1\nb 7\n");
  workshop.derive_cfg("b.cfg", "thresh=.6", "thresh=.6\ntree=bad.tree", "region.cfg");
  expect(workshop.run({"detector", "train", "obj.data", "b.cfg"}), 1, {"bad.tree:2: 'b 7' is no class of a tree"});
  workshop.derive_cfg("c.cfg", "thresh=.6", "thresh=.6\nmap=nowhere.map", "region.cfg");
  expect(workshop.run({"detector", "train", "obj.data", "c.cfg"}), 1, {"nowhere.map"});
}

TEST_CASE("result.json is written whatever bytes names have") {
  const Workshop workshop;
  train_short(workshop);
  workshop.write("obj.names",
                 "F\xFC\xDF"
                 "e\nblue\n");
  expect(workshop.run({"detector", "test", "obj.data", "short.cfg", "backup/short_final.weights", "images/disc25.png", "-thresh", "0.001",
                       "-out", "r.json"}),
         0, {"Predicted"});
  const std::string json = workshop.read("r.json");
  CHECK(json.find("disc25.png") != std::string::npos);
  CHECK(json.find('\xFC') == std::string::npos);
}

TEST_CASE("random=1 draws only sizes that the network can have") {
  const Workshop workshop;
  workshop.derive_cfg("multi.cfg", "random=0", "random=1");
  workshop.derive_cfg("multi.cfg", "[convolutional]\nsize=1",
                      "[upsample]\nstride=2\n\n[route]\nlayers=-1,-3\n\n[maxpool]\nsize=2\nstride=2\n\n[convolutional]\nsize=1",
                      "multi.cfg");  // joins maps that agree only where the side is a multiple of 16
  workshop.derive_cfg("multi.cfg", "max_batches=20", "max_batches=60", "multi.cfg");
  expect(workshop.run({"detector", "train", "obj.data", "multi.cfg"}), 0, {"saved backup/multi_final.weights"});
}
