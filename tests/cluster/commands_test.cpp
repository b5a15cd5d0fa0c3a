// The built program, from the command line, on a tiny data set.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <opencv2/imgcodecs.hpp>
#include <regex>

#include "darknet/training/checkpoint.hpp"
#include "tests/cluster/commands_fixture.hpp"

using tessera::testing::Outcome;
using tessera::testing::Workshop;

namespace {

const std::regex kLogLine(R"((\d+): ([0-9.]+), ([0-9.]+) avg loss, ([0-9.]+) rate, ([0-9.]+) seconds, (\d+) images, ([0-9.]+) hours left)");

struct LogLine {
  int iteration = 0;
  double loss = 0, average = 0, rate = 0;
  int images = 0;
};

std::vector<LogLine> log_lines(const std::string& text) {
  std::vector<LogLine> lines;
  for (std::sregex_iterator match(text.begin(), text.end(), kLogLine), end; match != end; ++match)
    lines.push_back(
        {std::stoi((*match)[1]), std::stod((*match)[2]), std::stod((*match)[3]), std::stod((*match)[4]), std::stoi((*match)[6])});
  return lines;
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

std::uint64_t seen_of(const std::string& weights) {
  REQUIRE(weights.size() > 20);
  std::uint64_t seen = 0;
  std::memcpy(&seen, weights.data() + 12, sizeof seen);
  return seen;
}

#define REQUIRE_SUCCESS(outcome)      \
  INFO((outcome).out);                \
  INFO((outcome).err);                \
  REQUIRE_FALSE((outcome).timed_out); \
  REQUIRE((outcome).code == 0)

Outcome train(const Workshop& workshop, std::vector<std::string> more = {}) {
  std::vector<std::string> words = {"detector", "train", "obj.data", "tiny.cfg", "-dont_show"};
  words.insert(words.end(), more.begin(), more.end());
  return workshop.run(words);
}

}  // namespace

TEST_CASE("detector train writes log lines, weights, charts; the rate is never 0 after the first update") {
  const Workshop workshop;
  const Outcome outcome = train(workshop, {"-map", "-map_every", "10", "-log", "out.log"});
  REQUIRE_SUCCESS(outcome);
  const std::vector<LogLine> lines = log_lines(outcome.out);
  REQUIRE(lines.size() == 20);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    CHECK(lines[i].iteration == static_cast<int>(i) + 1);
    CHECK(lines[i].images == 8 * (static_cast<int>(i) + 1));
    CHECK(lines[i].rate > 0);
  }
  CHECK(lines.back().average < lines.front().average);
  CHECK(log_lines(workshop.read("out.log")).size() == 20);
  for (const char* file : {"backup/tiny_last.weights", "backup/tiny_final.weights", "backup/tiny_best.weights", "backup/tiny_20.checkpoint",
                           "chart.png", "chart_tiny.png"})
    CHECK_MESSAGE(workshop.has(file), file);
  CHECK(seen_of(workshop.read("backup/tiny_final.weights")) == 160);
  CHECK(!cv::imread(workshop.path("chart.png")).empty());
  CHECK(contains(outcome.out, "mAP at iteration 10:"));
  CHECK(contains(outcome.out, "mAP at iteration 20:"));
  CHECK_FALSE(contains(outcome.out + outcome.err, "nan"));
  CHECK_FALSE(std::filesystem::exists(workshop.path("backup/tiny_last.weights.tmp")));
}

TEST_CASE("two trainings with one seed give the same weights to the bit, another seed gives others") {
  const Workshop workshop;
  REQUIRE_SUCCESS(train(workshop));
  const std::string first = workshop.read("backup/tiny_final.weights");
  REQUIRE_SUCCESS(train(workshop));
  CHECK(workshop.read("backup/tiny_final.weights") == first);
  REQUIRE_SUCCESS(train(workshop, {"-seed", "7"}));
  CHECK(workshop.read("backup/tiny_final.weights") != first);
}

TEST_CASE("an interrupted training saves, and resumed it ends with the weights of an undisturbed one") {
  const Workshop workshop;
  REQUIRE_SUCCESS(train(workshop, {"-map", "-map_every", "5"}));
  const std::string undisturbed = workshop.read("backup/tiny_final.weights");
  workshop.remove("backup");

  const Outcome interrupted =
      workshop.run({"detector", "train", "obj.data", "tiny.cfg", "-dont_show", "-map", "-map_every", "5"}, "", 120, "7: ");
  INFO(interrupted.err);
  REQUIRE(interrupted.code == 130);
  const std::uint64_t seen = seen_of(workshop.read("backup/tiny_last.weights"));
  CHECK(seen >= 56);
  CHECK(seen < 160);
  const std::string checkpoint = "backup/tiny_" + std::to_string(seen / 8) + ".checkpoint";
  REQUIRE(workshop.has(checkpoint));
  CHECK(tessera::darknet::read_checkpoint(workshop.path(checkpoint))->state.loss.size() == seen / 8);

  const Outcome resumed = train(workshop, {"backup/tiny_last.weights", "-map", "-map_every", "5"});
  REQUIRE_SUCCESS(resumed);
  CHECK(contains(resumed.out, "with momentum"));
  CHECK(log_lines(resumed.out).front().iteration == static_cast<int>(seen / 8) + 1);
  CHECK(workshop.read("backup/tiny_final.weights") == undisturbed);
  CHECK(tessera::darknet::read_checkpoint(workshop.path("backup/tiny_20.checkpoint"))->state.loss.size() == 20);
}

TEST_CASE("a finished training says so and starts over with -clear") {
  const Workshop workshop;
  REQUIRE_SUCCESS(train(workshop));
  const Outcome again = train(workshop, {"backup/tiny_final.weights"});
  CHECK(again.code == 1);
  CHECK(contains(again.err, "add -clear"));
  const Outcome cleared = train(workshop, {"backup/tiny_final.weights", "-clear"});
  REQUIRE_SUCCESS(cleared);
  CHECK(log_lines(cleared.out).front().iteration == 1);
}

TEST_CASE("options stand anywhere and in any of Darknet's spellings; options of other Darknets get one line") {
  const Workshop workshop;
  const Outcome outcome =
      workshop.run({"detector", "--map", "--dont-show", "train", "obj.data", "-gpus", "0,1", "tiny.cfg", "-mjpeg_port", "8090"});
  REQUIRE_SUCCESS(outcome);
  CHECK(log_lines(outcome.out).size() == 20);
  CHECK(contains(outcome.out, "mAP at iteration 20:"));
  CHECK(contains(outcome.err, "option -gpus has no meaning here"));
  CHECK(contains(outcome.err, "option -mjpeg_port has no meaning here"));
}

TEST_CASE("random=1 trains at several input sizes, region heads train too") {
  const Workshop workshop;
  workshop.derive_cfg("random.cfg", "random=0", "random=1");
  workshop.derive_cfg("random.cfg", "max_batches=20", "max_batches=50", "random.cfg");
  const Outcome random = workshop.run({"detector", "train", "obj.data", "random.cfg", "-dont_show", "-verbose"});
  REQUIRE_SUCCESS(random);
  CHECK(log_lines(random.out).size() == 50);
  CHECK(contains(random.err, "input size "));
  const Outcome region = workshop.run({"detector", "train", "obj.data", "region.cfg", "-dont_show"});
  REQUIRE_SUCCESS(region);
  CHECK(log_lines(region.out).size() == 20);
}

TEST_CASE("an unreadable picture is skipped, named in bad.list, and training goes on") {
  const Workshop workshop;
  workshop.write("images/broken.png", "this is no picture");
  workshop.write("labels/broken.txt", "0 0.5 0.5 0.2 0.2\n");
  workshop.write("train.txt", workshop.read("train.txt") + "images/broken.png\nimages/absent.png\n");
  const Outcome outcome = train(workshop);
  REQUIRE_SUCCESS(outcome);
  CHECK(log_lines(outcome.out).size() == 20);
  const std::string list = workshop.read("bad.list");
  CHECK(contains(list, "images/broken.png"));
  CHECK(contains(list, "images/absent.png"));
  CHECK(contains(workshop.read("bad_label.list"), "labels/absent.txt"));
  CHECK(contains(outcome.err, "cannot be read and are skipped"));
}

TEST_CASE("detector test, map, recall, valid, partial and detect on trained weights") {
  const Workshop workshop;
  workshop.derive_cfg("long.cfg", "max_batches=20", "max_batches=300");
  workshop.derive_cfg("long.cfg", "steps=15,18", "steps=200,260", "long.cfg");
  REQUIRE_SUCCESS(workshop.run({"detector", "train", "obj.data", "long.cfg", "-dont_show"}, "", 300));
  const std::string weights = "backup/long_final.weights";

  {
    INFO("map finds the objects");
    const Outcome map = workshop.run({"detector", "map", "obj.data", "long.cfg", weights});
    REQUIRE_SUCCESS(map);
    std::smatch match;
    REQUIRE(std::regex_search(map.out, match, std::regex(R"(\(mAP@0\.50\) = ([0-9.]+), or)")));
    CHECK(std::stod(match[1]) > 0.3);
    const Outcome strict = workshop.run({"detector", "map", "obj.data", "long.cfg", weights, "-iou_thresh", "0.75", "-points", "101"});
    REQUIRE_SUCCESS(strict);
    CHECK(contains(strict.out, "mAP@0.75"));
    CHECK(contains(strict.out, "used 101 recall points"));
  }
  {
    INFO("test writes predictions.jpg, JSON of a list, and labels");
    const Outcome one = workshop.run(
        {"detector", "test", "obj.data", "long.cfg", weights, "images/square0.png", "-thresh", "0.05", "-ext_output", "-dont_show"});
    REQUIRE_SUCCESS(one);
    CHECK(contains(one.out, "images/square0.png: Predicted in "));
    CHECK(contains(one.out, "left_x:"));
    CHECK(!cv::imread(workshop.path("predictions.jpg")).empty());

    const std::string labels_before = workshop.read("labels/disc25.txt");
    const Outcome list = workshop.run(
        {"detector", "test", "obj.data", "long.cfg", weights, "-thresh", "0.05", "-out", "result.json", "-dont_show", "-save_labels"},
        workshop.read("valid.txt"));
    REQUIRE_SUCCESS(list);
    const auto frames = nlohmann::json::parse(workshop.read("result.json"));
    REQUIRE(frames.size() == 8);
    CHECK(frames[0].at("frame_id") == 1);
    CHECK(std::any_of(frames.begin(), frames.end(), [](const auto& frame) { return !frame.at("objects").empty(); }));
    CHECK_FALSE(workshop.has("images/disc25.txt"));  // where training reads them
    const bool changed = workshop.read("labels/disc25.txt") != labels_before;
    CHECK(changed);
  }
  {
    INFO("detect needs no .data file");
    const Outcome detect = workshop.run({"detect", "long.cfg", weights, "images/square0.png", "-thresh", "0.05", "-dont_show"});
    REQUIRE_SUCCESS(detect);
    CHECK(contains(detect.out, "class "));
  }
  {
    INFO("recall and valid");
    const Outcome recall = workshop.run({"detector", "recall", "obj.data", "long.cfg", weights});
    REQUIRE_SUCCESS(recall);
    CHECK(contains(recall.out, "Recall:"));
    const Outcome valid = workshop.run({"detector", "valid", "obj.data", "long.cfg", weights});
    REQUIRE_SUCCESS(valid);
    CHECK(contains(workshop.read("results/comp4_det_test_square.txt"), "square"));
    workshop.write("obj.data", workshop.read("obj.data") + "eval = coco\n");
    REQUIRE_SUCCESS(workshop.run({"detector", "valid", "obj.data", "long.cfg", weights}));
    CHECK(nlohmann::json::parse(workshop.read("results/coco_results.json")).size() > 0);
  }
  {
    INFO("partial gives a start for another network");
    const Outcome partial = workshop.run({"partial", "long.cfg", weights, "start.conv.4", "4"});
    REQUIRE_SUCCESS(partial);
    CHECK(seen_of(workshop.read("start.conv.4")) == 0);
    workshop.derive_cfg("more.cfg", "classes=2", "classes=3");
    workshop.derive_cfg("more.cfg", "filters=21", "filters=24", "more.cfg");
    workshop.write("more.data", "classes = 3\ntrain = train.txt\n");
    const Outcome fine_tuned = workshop.run({"detector", "train", "more.data", "more.cfg", "start.conv.4", "-dont_show"});
    REQUIRE_SUCCESS(fine_tuned);
    CHECK(contains(fine_tuned.out, "the first 3 of 4 layers with weights"));
    const Outcome whole = workshop.run({"detector", "train", "more.data", "more.cfg", weights, "-dont_show"});
    CHECK(whole.code == 1);
    CHECK(contains(whole.err, "layer 4 (convolutional)"));
  }
  {
    INFO("demo reads a video and writes one");
    const Outcome demo = workshop.run({"detector", "demo", "obj.data", "long.cfg", weights, "images/square%d.png", "-dont_show", "-prefix",
                                       "frame", "-out_filename", "film.avi"});
    CHECK(demo.code == 0);
    CHECK(workshop.has("frame_00000000.jpg"));
    REQUIRE(workshop.has("film.avi"));
    const Outcome again = workshop.run({"detector", "demo", "obj.data", "long.cfg", weights, "film.avi", "-dont_show"});
    CHECK(again.code == 0);
    const auto frames = [](const Outcome& outcome) {
      std::smatch match;
      return std::regex_search(outcome.out, match, std::regex("([0-9]+) frames,")) ? match[1].str() : "none";
    };
    CHECK(frames(again) == frames(demo));
  }
  {
    INFO("without darknet-video.so there are no videos, but pictures");
    std::filesystem::copy_file(tessera::testing::program(), workshop.path("darknet"));
    const Outcome demo = workshop.run({"detector", "demo", "obj.data", "long.cfg", weights, "images/square%d.png"});
    CHECK(demo.code == 1);
    CHECK(contains(demo.err, "/darknet-video.so: cannot open"));
    const Outcome picture = workshop.run({"detector", "test", "obj.data", "long.cfg", weights, "images/square0.png", "-dont_show"});
    CHECK(picture.code == 0);
  }
}

TEST_CASE("calc_anchors prints and writes anchors that fit") {
  const Workshop workshop;
  const Outcome outcome = workshop.run({"detector", "calc_anchors", "obj.data", "-num_of_clusters", "3", "-width", "64", "-height", "64"});
  REQUIRE_SUCCESS(outcome);
  std::smatch match;
  REQUIRE(std::regex_search(outcome.out, match, std::regex(R"(avg IoU = ([0-9.]+) %)")));
  CHECK(std::stod(match[1]) > 75);
  const std::string anchors = workshop.read("anchors.txt");
  CHECK(std::count(anchors.begin(), anchors.end(), ',') == 5);
}

TEST_CASE("classifier train, valid and predict") {
  const Workshop workshop;
  workshop.write("class.cfg", R"([net]
batch=8
subdivisions=1
width=32
height=32
channels=3
min_crop=32
max_crop=40
learning_rate=0.05
max_batches=150
policy=poly
power=4
[convolutional]
filters=8
size=3
stride=2
pad=1
activation=leaky
[convolutional]
filters=8
size=3
stride=2
pad=1
activation=leaky
[convolutional]
filters=2
size=1
stride=1
pad=1
activation=linear
[avgpool]
[softmax]
groups=1
[cost]
type=sse
)");
  workshop.write("class.data",
                 "classes = 2\ntrain = train.txt\nvalid = valid.txt\nlabels = obj.names\nnames = obj.names\nbackup = "
                 "backup\ntop = 1\n");
  const Outcome trained = workshop.run({"classifier", "train", "class.data", "class.cfg", "-map", "-dont_show"});
  REQUIRE_SUCCESS(trained);
  CHECK(log_lines(trained.out).size() == 150);
  CHECK(contains(trained.out, "top-1 accuracy at iteration 150:"));
  const Outcome valid = workshop.run({"classifier", "valid", "class.data", "class.cfg", "backup/class_final.weights"});
  REQUIRE_SUCCESS(valid);
  std::smatch match;
  REQUIRE(std::regex_search(valid.out, match, std::regex(R"(8: top 1: ([0-9.]+))")));
  CHECK(std::stod(match[1]) > 0.6);
  const Outcome predicted =
      workshop.run({"classifier", "predict", "class.data", "class.cfg", "backup/class_final.weights", "images/square0.png", "-top", "2"});
  REQUIRE_SUCCESS(predicted);
  CHECK(contains(predicted.out, "%: square"));
  CHECK(contains(predicted.out, "%: disc"));
}

namespace {

// Bright pictures are of class 1, dark ones of class 0.
void write_idx(const Workshop& workshop, const std::string& name, int count) {
  std::string images{'\0', '\0', 8, 3, 0, 0, 0, static_cast<char>(count), 0, 0, 0, 8, 0, 0, 0, 8},
      labels{'\0', '\0', 8, 1, 0, 0, 0, static_cast<char>(count)};
  for (int i = 0; i < count; ++i) {
    labels += static_cast<char>(i % 2);
    for (int pixel = 0; pixel < 64; ++pixel) images += static_cast<char>((i % 2 ? 150 : 40) + (pixel * 7 + i * 13) % 50);
  }
  workshop.write(name + "-images", images);
  workshop.write(name + "-labels", labels);
}

}  // namespace

TEST_CASE("a classifier trains on IDX files, with augmentation and Adam, and they are divided over edges") {
  const Workshop workshop;
  write_idx(workshop, "train", 60);
  write_idx(workshop, "valid", 10);
  workshop.write("classes.txt", "dark\nbright\n");
  workshop.write("idx.data",
                 "classes = 2\ntrain = idx:train-images:train-labels\nvalid = idx:valid-images:valid-labels\nlabels = classes.txt\n"
                 "augment = pad=1 flip cutout=2\nbackup = backup\n");
  workshop.write("idx.cfg", R"([net]
batch=10
width=8
height=8
channels=1
learning_rate=0.02
max_batches=40
adam=1
amsgrad=1
[convolutional]
filters=4
size=3
pad=1
stride=2
activation=leaky
[convolutional]
filters=2
size=1
activation=linear
[avgpool]
[softmax]
)");
  const Outcome trained = workshop.run({"classifier", "train", "idx.data", "idx.cfg", "-map", "-backend", "reference"});
  REQUIRE_SUCCESS(trained);
  CHECK(contains(trained.out, "60 training images of 2 classes"));
  const Outcome valid = workshop.run({"classifier", "valid", "idx.data", "idx.cfg", "backup/idx_final.weights"});
  REQUIRE_SUCCESS(valid);
  CHECK(contains(valid.out, "10: top 1: 1.0"));

  // In two halves, Adam's moments going from one to the other, it ends with the same bytes.
  workshop.derive_cfg("half.cfg", "max_batches=40", "max_batches=20", "idx.cfg");
  REQUIRE_SUCCESS(workshop.run({"classifier", "train", "idx.data", "half.cfg", "-backend", "reference"}));
  const std::string whole = workshop.read("backup/idx_final.weights");
  workshop.remove("backup/idx_final.weights");
  REQUIRE_SUCCESS(workshop.run({"classifier", "train", "idx.data", "idx.cfg", "backup/half_last.weights", "-backend", "reference"}));
  CHECK(workshop.read("backup/idx_final.weights") == whole);

  const Outcome divided = workshop.run({"partition", "idx.data", "3", "edges", "-alpha", "0.5", "-seed", "3"});
  REQUIRE_SUCCESS(divided);
  CHECK(contains(divided.out, "60 pictures over 3 edges (Dirichlet, alpha 0.5, seed 3)"));
  CHECK(workshop.read("edges/partition.png").starts_with("\x89PNG"));
  CHECK(contains(workshop.read("edges/edge2.data"), "train = idx:edges/edge2-images-idx3-ubyte:edges/edge2-labels-idx1-ubyte"));
  REQUIRE_SUCCESS(workshop.run({"classifier", "train", "edges/edge2.data", "idx.cfg"}));

  // Lists, too.
  workshop.write("class.data", "classes = 2\ntrain = train.txt\nlabels = obj.names\n");
  REQUIRE_SUCCESS(workshop.run({"partition", "class.data", "2", "halves"}));
  const std::string first = workshop.read("halves/edge0.list");
  CHECK(std::count(first.begin(), first.end(), '\n') == 12);

  workshop.write("train-labels", workshop.read("train-labels").substr(0, 30));
  const Outcome broken = workshop.run({"classifier", "train", "idx.data", "idx.cfg"});
  CHECK(broken.code == 1);
  CHECK(contains(broken.err, "idx.data:2: train-labels: has 30 bytes, which is not what its header says"));
}
