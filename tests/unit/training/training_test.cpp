// The parts of training that need no network: state, sizes, saves, anchors, lists, result files.
#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <opencv2/imgcodecs.hpp>
#include <set>

#include "base/text.hpp"
#include "darknet/training/preflight.hpp"
#include "darknet/training/training_loop.hpp"
#include "darknet/training/training_state.hpp"
#include "data/anchors.hpp"
#include "data/sample_rng.hpp"
#include "observe/result_files.hpp"

using namespace tessera;
using namespace tessera::darknet;

TEST_CASE("a training state comes back as it was saved") {
  TrainingState state;
  state.seed = 0xFFFFFFFFFFFFFFFFu;
  state.weights_hash = 0x0123456789ABCDEFu;
  state.average_loss = 0.1;
  state.best_precision = 0.75;
  state.loss = {{1, 3.5}, {2, 1.0 / 3}};
  state.precision = {{100, 0.25}};
  const auto back = parse_training_state(to_json(state), "x.state");
  REQUIRE(back);
  CHECK(back->seed == state.seed);
  CHECK(back->weights_hash == state.weights_hash);
  CHECK(back->average_loss == state.average_loss);
  CHECK(back->best_precision == state.best_precision);
  REQUIRE(back->loss.size() == 2);
  CHECK(back->loss[1].value == state.loss[1].value);
  CHECK(back->precision[0].iteration == 100);
  for (const char* bad : {"", "{}", "[]", "{\"version\":99}", "{\"version\":1,\"seed\":\"a\"}"}) {
    CAPTURE(std::string(bad));
    CHECK(parse_training_state(bad, "x.state").error().message.rfind("x.state: ", 0) == 0);
  }
}

TEST_CASE("numbered saves: every 1000 below 10,000, then every 10,000") {
  std::vector<std::uint64_t> due;
  for (std::uint64_t i = 0; i <= 40000; ++i)
    if (numbered_save_due(i)) due.push_back(i);
  CHECK(due == std::vector<std::uint64_t>{1000, 2000, 3000, 4000, 5000, 6000, 7000, 8000, 9000, 10000, 20000, 30000, 40000});
}

TEST_CASE("multi-scale sizes: the cfg's at both ends, 0.7 to 1.4 times it between, steps of 32, shape kept") {
  const auto cfg =
      cfg::check_cfg(*cfg::parse_cfg("x.cfg", {"[net]", "width=416", "height=224", "channels=3", "[convolutional]", "size=3"}));
  REQUIRE(cfg);
  const std::vector<cfg::InputSize> sizes = cfg::multi_scale_sizes(*cfg);
  std::set<int> widths;
  for (std::uint64_t iteration = 0; iteration < 5000; ++iteration) {
    CAPTURE(iteration);
    const cfg::InputSize size = multi_scale_size(3, iteration, 5000, {416, 224}, sizes);
    if (iteration < 10 || iteration >= 4800) {
      CHECK(size.width == 416);
      continue;
    }
    CHECK(size.width % 32 == 0);
    CHECK(size.height % 32 == 0);
    CHECK(size.width >= 0.7 * 416);
    CHECK(size.width <= 1.4 * 416);
    CHECK(std::abs(size.height - size.width * 224.0 / 416) <= 16);
    CHECK(size.width == multi_scale_size(3, iteration / 10 * 10, 5000, {416, 224}, sizes).width);
    widths.insert(size.width);
  }
  CHECK(widths.size() == 9);  // 320 to 576
}

TEST_CASE("anchors of boxes in clear clusters are the clusters") {
  std::vector<data::BoxSize> boxes;
  data::SampleRng rng(1, 0);
  for (int i = 0; i < 300; ++i) {
    const data::BoxSize centre = i % 3 == 0 ? data::BoxSize{10, 10} : i % 3 == 1 ? data::BoxSize{30, 60} : data::BoxSize{120, 80};
    boxes.push_back({centre.width * rng.between(0.95f, 1.05f), centre.height * rng.between(0.95f, 1.05f)});
  }
  const auto anchors = data::find_anchors(boxes, 3, 1);
  REQUIRE(anchors);
  REQUIRE(anchors->sizes.size() == 3);
  CHECK(anchors->sizes[0].width == doctest::Approx(10).epsilon(0.03));
  CHECK(anchors->sizes[1].height == doctest::Approx(60).epsilon(0.03));
  CHECK(anchors->sizes[2].width == doctest::Approx(120).epsilon(0.03));
  CHECK(anchors->mean_iou > 0.9);
  CHECK(data::find_anchors(boxes, 3, 1)->sizes[0].width == anchors->sizes[0].width);
  CHECK(data::size_iou({2, 2}, {1, 4}) == doctest::Approx(2.0 / 6));
  CHECK_FALSE(data::find_anchors(boxes, 0, 1));
  CHECK_FALSE(data::find_anchors({boxes.data(), 2}, 3, 1));
}

TEST_CASE("a list's findings: unreadable images, missing and wrong labels, objects; bounded in time") {
  std::string pattern = (std::filesystem::temp_directory_path() / "tessera-list-XXXXXX").string();
  REQUIRE(::mkdtemp(pattern.data()) != nullptr);
  const std::filesystem::path folder = pattern;
  std::filesystem::create_directories(folder / "images");
  std::filesystem::create_directories(folder / "labels");
  std::vector<std::string> images;
  for (int i = 0; i < 20; ++i) {
    images.push_back((folder / "images" / (std::to_string(i) + ".png")).string());
    if (i != 3) REQUIRE(cv::imwrite(images.back(), cv::Mat(4, 4, CV_8UC3, cv::Scalar(0, 0, 0))));
    if (i != 5)
      std::ofstream(folder / "labels" / (std::to_string(i) + ".txt")) << (i == 7 ? "2 .5 .5 .1 .1\n" : "1 .5 .5 .1 .1\n0 .5 .5 .1 .1\n");
  }
  const ListFindings found = check_list(images, {2, 60});
  CHECK(found.images == 20);
  CHECK(found.checked == 20);
  CHECK(found.objects == 36);
  REQUIRE(found.bad_images.size() == 1);
  CHECK(found.bad_images[0].find("3.png") != std::string::npos);
  REQUIRE(found.bad_labels.size() == 1);
  CHECK(found.bad_labels[0].find("7.txt:1: class 2") != std::string::npos);
  REQUIRE(found.missing_labels.size() == 1);
  CHECK(check_list(images, {2, -1}).checked == 0);

  CHECK(check_backup_folder((folder / "a/b").string(), "x.data:1", 1000));
  CHECK(std::filesystem::is_directory(folder / "a/b"));
  CHECK(std::filesystem::is_empty(folder / "a/b"));
  const auto full = check_backup_folder((folder / "a/b").string(), "x.data:1", std::uint64_t{1} << 60);
  REQUIRE_FALSE(full);
  CHECK(full.error().message.find("has room for") != std::string::npos);
  CHECK_FALSE(check_backup_folder((folder / "images/0.png/b").string(), "x.data:1", 1));
  std::filesystem::remove_all(folder);
}

TEST_CASE("files are replaced in one step or left alone") {
  const std::string path = (std::filesystem::temp_directory_path() / ("tessera-atomic-" + std::to_string(::getpid()))).string();
  REQUIRE(base::write_file_atomically(path, "one"));
  REQUIRE(base::write_file_atomically(path, "two\n"));
  CHECK(*base::read_lines(path, "test file") == std::vector<std::string>{"two"});
  CHECK_FALSE(std::filesystem::exists(path + ".tmp"));
  std::filesystem::remove(path);
  CHECK_FALSE(base::write_file_atomically("/proc/none/x", "x"));
}

TEST_CASE("COCO's numbers and the result files' formats") {
  CHECK(observe::coco_category_id(0) == 1);
  CHECK(observe::coco_category_id(10) == 11);
  CHECK(observe::coco_category_id(11) == 13);
  CHECK(observe::coco_category_id(24) == 27);
  CHECK(observe::coco_category_id(79) == 90);
  CHECK(observe::coco_image_id("val/COCO_val2014_000000000042.jpg") == 42);
  CHECK(observe::coco_image_id("val/000000000139.jpg") == 139);

  const std::string folder = (std::filesystem::temp_directory_path() / ("tessera-results-" + std::to_string(::getpid()))).string();
  cfg::DataFile data;
  data.results = folder;
  const observe::DetectedObject object{0, 1, 0.5f, {0.5f, 0.5f, 0.2f, 2.0f}};
  auto voc = observe::make_result_writer(data, {"a", "b"}, "");
  REQUIRE(voc);
  (*voc)->add(0, "images/x.jpg", {100, 50}, {&object, 1});
  REQUIRE((*voc)->finish());
  CHECK(*base::read_lines(folder + "/comp4_det_test_b.txt", "") ==
        std::vector<std::string>{"x 0.500000 41.000000 1.000000 61.000000 50.000000"});
  CHECK(base::read_lines(folder + "/comp4_det_test_a.txt", "")->empty());

  data.eval = "coco";
  auto coco = observe::make_result_writer(data, {"a", "b"}, "mine");
  REQUIRE(coco);
  for (int i = 0; i < 2; ++i) (*coco)->add(i, "7.jpg", {100, 50}, {&object, 1});
  REQUIRE((*coco)->finish());
  std::ifstream file(folder + "/mine.json");
  const auto entries = nlohmann::json::parse(std::string(std::istreambuf_iterator<char>(file), {}));
  REQUIRE(entries.size() == 2);
  CHECK(entries[1].at("image_id") == 7);
  CHECK(entries[1].at("category_id") == 2);
  CHECK(entries[1].at("bbox")[2] == doctest::Approx(20));
  data.eval = "other";
  CHECK_FALSE(observe::make_result_writer(data, {"a"}, ""));
  std::filesystem::remove_all(folder);
}
