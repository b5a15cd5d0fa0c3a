// .data files, label files and the samples made of them.
#include <doctest/doctest.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <opencv2/imgcodecs.hpp>
#include <thread>

#include "base/clock.hpp"
#include "base/text.hpp"
#include "cfg/data_file.hpp"
#include "data/batch_loader.hpp"
#include "data/classifier_data.hpp"
#include "data/detection_data.hpp"
#include "data/image_file.hpp"
#include "data/image_set.hpp"
#include "data/label_file.hpp"
#include "data/sample_rng.hpp"

using namespace tessera;

namespace {

class Folder {
 public:
  Folder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "tessera-data-XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
    std::filesystem::create_directories(path_ / "images");
    std::filesystem::create_directories(path_ / "labels");
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

void write(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

}  // namespace

TEST_CASE("the label file: only whole folder names are replaced, the last one of them") {
  CHECK(data::label_places("data/images/a.jpg").usual == "data/labels/a.txt");
  CHECK(data::label_places("data/images/a.jpg").beside == "data/images/a.txt");
  CHECK(data::label_places("/my_images/set/images/a.b.png").usual == "/my_images/set/labels/a.b.txt");
  CHECK(data::label_places("images/old_images/images/x.jpeg").usual == "images/old_images/labels/x.txt");
  CHECK(data::label_places("VOC/JPEGImages/1.jpg").usual == "VOC/labels/1.txt");
  CHECK(data::label_path("my_images/1.jpg") == "my_images/1.txt");
  CHECK(data::label_path("images.jpg") == "images.txt");
}

TEST_CASE("labels lie in the folder `labels` or beside their image; whoever writes them writes where they are read") {
  const Folder folder;
  std::filesystem::create_directories(folder / "raw");
  CHECK(data::label_path(folder / "raw/../only/images/a.png") == folder / "raw/../only/images/a.txt");  // no folder labels there
  CHECK(data::label_path(folder / "images/a.png") == folder / "labels/a.txt");
  write(folder / "images/a.txt", "");
  CHECK(data::label_path(folder / "images/a.png") == folder / "images/a.txt");
  write(folder / "labels/a.txt", "");
  CHECK(data::label_path(folder / "images/a.png") == folder / "labels/a.txt");
}

TEST_CASE("labels are read strictly and judged") {
  const Folder folder;
  write(folder / "good.txt", "0 0.5 0.25 0.1 0.2\r\n\n  1\t.5 .5 1 1\n");
  const auto good = data::read_labels(folder / "good.txt");
  REQUIRE(good);
  REQUIRE(good->size() == 2);
  CHECK((*good)[0].y == 0.25f);
  CHECK((*good)[1].class_id == 1);
  CHECK((*good)[1].line == 3);
  for (const char* bad : {"0 0.5 0.5 0.1", "0 0.5 0.5 0.1 0.1 0.1", "cat 0.5 0.5 0.1 0.1", "0 a 0.5 0.1 0.1", "0.5 0.5 0.5 0.1 0.1"}) {
    CAPTURE(std::string(bad));
    write(folder / "bad.txt", std::string("0 .5 .5 .1 .1\n") + bad + "\n");
    const auto labels = data::read_labels(folder / "bad.txt");
    REQUIRE_FALSE(labels);
    CHECK(labels.error().message.find("bad.txt:2: ") != std::string::npos);
  }
  CHECK(data::read_labels(folder / "none.txt").error().code == tessera::base::ErrorCode::kNotFound);
  CHECK(data::label_mistake({0, 0.5f, 0.5f, 0.1f, 0.1f, 1}, 1).empty());
  CHECK(data::label_mistake({0, 0.5f, 0.5f, 1.0005f, 0.1f, 1}, 1).empty());
  CHECK_FALSE(data::label_mistake({1, 0.5f, 0.5f, 0.1f, 0.1f, 1}, 1).empty());
  CHECK_FALSE(data::label_mistake({-1, 0.5f, 0.5f, 0.1f, 0.1f, 1}, 1).empty());
  CHECK_FALSE(data::label_mistake({0, 1.5f, 0.5f, 0.1f, 0.1f, 1}, 1).empty());
  CHECK_FALSE(data::label_mistake({0, 0.5f, 0.5f, 0.0f, 0.1f, 1}, 1).empty());
  CHECK_FALSE(data::label_mistake({0, 0.5f, 0.5f, NAN, 0.1f, 1}, 1).empty());
}

TEST_CASE(".data files: known keys, defaults, lines in errors") {
  const auto data = cfg::parse_data_file("x.data", {"classes= 4", "train  = a/train.txt # comment", "", "names = x.names"});
  REQUIRE(data);
  CHECK(data->classes == 4);
  CHECK(data->train == "a/train.txt");
  CHECK(data->backup == "./backup");
  CHECK(data->where("names") == "x.data:4");
  CHECK(data->where("valid") == "x.data");
  CHECK(cfg::parse_data_file("x.data", {"clases=4"}).error().message == "x.data:1: there is no key 'clases'; did you mean 'classes'?");
  CHECK(cfg::parse_data_file("x.data", {"", "classes=no"}).error().message.rfind("x.data:2: classes=no is no good value", 0) == 0);
  CHECK(cfg::parse_data_file("x.data", {"train"}).error().message.rfind("x.data:1: 'train' is no option", 0) == 0);
}

TEST_CASE("a placement moves boxes as it moves the picture") {
  const data::BatchShape shape{1, 100, 100, 3, 0};
  data::Placement p;
  p.width = 50;
  p.height = 100;
  p.left = 25;
  p.top = 0;
  const std::vector<data::Label> one = {{3, 0.5f, 0.5f, 0.4f, 0.2f, 1}};
  auto placed = data::place_labels(one, p, shape);
  REQUIRE(placed.size() == 1);
  CHECK(placed[0].class_id == 3);
  CHECK(placed[0].x == doctest::Approx(0.5));
  CHECK(placed[0].w == doctest::Approx(0.2));
  CHECK(placed[0].h == doctest::Approx(0.2));

  p.left = 50;
  p.flip = true;
  placed = data::place_labels({{0, 0.25f, 0.5f, 0.2f, 0.2f, 1}}, p, shape);  // centre at (50 + 12.5) / 100, mirrored
  CHECK(placed[0].x == doctest::Approx(1 - 0.625));

  p.flip = false;
  p.left = -20;
  p.width = 100;
  placed = data::place_labels({{0, 0.2f, 0.5f, 0.2f, 0.2f, 1}, {0, 0.1f, 0.5f, 0.2f, 0.2f, 2}}, p, shape);
  REQUIRE(placed.size() == 1);  // the first is cut to 0..0.1, of the second nothing is left
  CHECK(placed[0].x == doctest::Approx(0.05));
  CHECK(placed[0].w == doctest::Approx(0.1));
}

TEST_CASE("drawn placements stay within the jitter and differ from sample to sample") {
  const data::BatchShape shape{1, 96, 96, 3, 0};
  int flips = 0;
  for (std::uint64_t sample = 0; sample < 1000; ++sample) {
    CAPTURE(sample);
    data::SampleRng rng(5, sample);
    const data::Placement p = data::draw_placement(rng, {0.2f, 0.1f, 1.5f, 1.5f}, 200, 100, shape);
    const double aspect = static_cast<double>(p.width) / p.height;
    CHECK(aspect >= 160.0 / 120 - 1e-3);
    CHECK(aspect <= 240.0 / 80 + 1e-3);
    CHECK(p.width == 96);
    CHECK(p.top >= 0);
    CHECK(p.top + p.height <= 96.001f);
    CHECK(std::abs(p.hue) <= 0.1f);
    CHECK(p.saturation >= 1 / 1.5f - 1e-6f);
    CHECK(p.saturation <= 1.5f);
    flips += p.flip;
  }
  CHECK(flips > 400);
  CHECK(flips < 600);
}

TEST_CASE("colour distortion: identity, grey stays grey, hue turns the wheel, values stay in range") {
  std::vector<float> planes = {0.9f, 0.2f, 0.5f, /* g */ 0.1f, 0.8f, 0.5f, /* b */ 0.3f, 0.6f, 0.5f};
  const std::vector<float> before = planes;
  data::distort_colours(planes.data(), 3, 0, 1, 1);
  for (std::size_t i = 0; i < planes.size(); ++i) CHECK(planes[i] == doctest::Approx(before[i]).epsilon(1e-5));
  data::distort_colours(planes.data(), 3, 0.3f, 1.4f, 1);
  CHECK(planes[2] == doctest::Approx(0.5));
  CHECK(planes[5] == doctest::Approx(0.5));
  std::vector<float> red = {1, 0, 0};
  data::distort_colours(red.data(), 1, 1.0f / 3, 1, 1);
  CHECK(red[0] == doctest::Approx(0).epsilon(1e-5));
  CHECK(red[1] == doctest::Approx(1));
  std::vector<float> bright = {0.9f, 0.2f, 0.1f};
  data::distort_colours(bright.data(), 1, 0, 3, 3);
  for (const float value : bright) {
    CHECK(value >= 0);
    CHECK(value <= 1);
  }
}

TEST_CASE("samples: the box stays on the object, results depend on seed and number only") {
  const Folder folder;
  cv::Mat picture(60, 90, CV_8UC3, cv::Scalar(0, 0, 0));
  picture(cv::Rect(30, 20, 20, 20)).setTo(cv::Scalar(255, 255, 255));
  REQUIRE(cv::imwrite(folder / "images/a.png", picture));
  write(folder / "labels/a.txt", "1 0.444444 0.5 0.222222 0.333333\n");
  const data::BatchShape shape{4, 64, 64, 3, 10};
  data::DetectionData data({folder / "images/a.png"}, 2, {0.2f, 0, 1, 1}, 9);
  for (std::uint64_t sample = 0; sample < 20; ++sample) {
    CAPTURE(sample);
    std::vector<float> input(shape.input_columns()), again(input.size()), truth(10, 0.0f), truth_again(10, 0.0f);
    REQUIRE(data.make(sample, shape, input.data(), truth.data()));
    REQUIRE(data.make(sample, shape, again.data(), truth_again.data()));
    CHECK(std::memcmp(input.data(), again.data(), input.size() * sizeof(float)) == 0);
    CHECK(truth == truth_again);
    CHECK(truth[4] == 1);
    CHECK(truth[5] == 0);
    // Centre of the bright pixels = centre of the box, up to the whole pixels upstream's placement is cut to.
    double sum = 0, x_sum = 0, y_sum = 0;
    for (int y = 0; y < 64; ++y)
      for (int x = 0; x < 64; ++x) {
        const float value = input[static_cast<std::size_t>(y) * 64 + x] > 0.75f ? 1.0f : 0.0f;
        sum += value;
        x_sum += value * (x + 0.5);
        y_sum += value * (y + 0.5);
      }
    REQUIRE(sum > 0);
    CHECK(std::abs(x_sum / sum / 64 - truth[0]) < 1.6 / 64);
    CHECK(std::abs(y_sum / sum / 64 - truth[1]) < 1.6 / 64);
  }
  data::DetectionData other({folder / "images/a.png"}, 2, {0.2f, 0, 1, 1}, 10);
  std::vector<float> a(shape.input_columns()), b(a.size()), truth(10, 0.0f);
  REQUIRE(data.make(0, shape, a.data(), truth.data()));
  REQUIRE(other.make(0, shape, b.data(), truth.data()));
  CHECK(a != b);
}

TEST_CASE("unreadable pictures and bad labels are replaced and reported once") {
  const Folder folder;
  REQUIRE(cv::imwrite(folder / "images/a.png", cv::Mat(8, 8, CV_8UC3, cv::Scalar(9, 9, 9))));
  REQUIRE(cv::imwrite(folder / "images/b.png", cv::Mat(8, 8, CV_8UC3, cv::Scalar(9, 9, 9))));
  write(folder / "labels/b.txt", "7 .5 .5 .1 .1\n");
  write(folder / "images/c.png", "nothing");
  const data::BatchShape shape{1, 16, 16, 3, 5};
  data::DetectionData data({folder / "images/a.png", folder / "images/b.png", folder / "images/c.png"}, 2, {}, 1);
  std::vector<float> input(shape.input_columns()), truth(5, 0.0f);
  for (std::uint64_t sample = 0; sample < 50; ++sample) REQUIRE(data.make(sample, shape, input.data(), truth.data()));
  const auto problems = data.new_problems();
  REQUIRE(problems.size() == 2);
  CHECK(data.new_problems().empty());
  data::DetectionData hopeless({folder / "images/c.png"}, 2, {}, 1);
  CHECK_FALSE(hopeless.make(0, shape, input.data(), truth.data()));
}

TEST_CASE("the loader gives batches in order, whatever the threads do, and passes errors on") {
  const data::BatchShape shape{16, 2, 2, 3, 1};
  data::BatchLoader loader(
      [](std::uint64_t sample, const data::BatchShape& s, float* input, float* truth) -> tessera::base::Status {
        if (sample >= 48) return tessera::base::error(tessera::base::ErrorCode::kIo, "no more");
        std::fill_n(input, s.input_columns(), static_cast<float>(sample));
        *truth = static_cast<float>(sample) + 0.5f;
        return {};
      },
      4);
  loader.request(0, shape);
  for (std::uint64_t batch = 0; batch < 3; ++batch) {
    loader.request(batch + 1, shape);
    const auto taken = loader.take();
    REQUIRE(taken);
    CHECK(taken->shape.rows == 16);
    CHECK(static_cast<int>(taken->shape.input_columns()) == 12);
    for (int row = 0; row < 16; ++row) {
      CHECK(taken->inputs[static_cast<std::size_t>(row)][11] == static_cast<float>(batch * 16 + static_cast<std::uint64_t>(row)));
      CHECK(taken->truths[static_cast<std::size_t>(row)][0] == static_cast<float>(batch * 16 + static_cast<std::uint64_t>(row)) + 0.5f);
    }
  }
  CHECK(loader.take().error().message == "no more");
}

TEST_CASE("the loader makes the next batch while the current one is used, and is not waited for then") {
  const data::BatchShape shape{8, 4, 4, 3, 1};
  std::atomic<bool> may_read = true;
  data::BatchLoader loader(
      [&](std::uint64_t, const data::BatchShape& s, float* input, float*) -> tessera::base::Status {
        while (!may_read) std::this_thread::sleep_for(tessera::base::Milliseconds(1));
        std::fill_n(input, s.input_columns(), 1.0f);
        return {};
      },
      2);
  loader.request(0, shape);
  REQUIRE(loader.take());
  const double waited = loader.waiting_seconds();
  may_read = false;
  loader.request(1, shape);  // comes back at once
  CHECK_FALSE(loader.peek());
  may_read = true;
  const auto deadline = tessera::base::Deadline::after(tessera::base::Milliseconds(20'000));
  while (!loader.peek() && !deadline.passed()) std::this_thread::sleep_for(tessera::base::Milliseconds(1));
  REQUIRE(loader.peek());  // nobody has asked for it yet
  REQUIRE(loader.take());
  CHECK(loader.waiting_seconds() - waited < 1);
  may_read = false;
  loader.request(2, shape);
  std::thread disk([&] {
    std::this_thread::sleep_for(tessera::base::Milliseconds(100));
    may_read = true;
  });
  REQUIRE(loader.take());  // before it is ready: waits, and says so
  disk.join();
  CHECK(loader.waiting_seconds() - waited >= 0.05);
}

TEST_CASE("the loader holds two batches, whose memory takes turns, also when sizes change") {
  data::BatchLoader loader(
      [](std::uint64_t sample, const data::BatchShape& s, float* input, float*) -> tessera::base::Status {
        std::fill_n(input, s.input_columns(), static_cast<float>(sample));
        return {};
      },
      2);
  const auto shape_of = [](std::uint64_t batch) { return data::BatchShape{4, batch % 5 == 3 ? 20 : 16, 16, 3, 1}; };
  loader.request(0, shape_of(0));
  std::vector<float*> seen;
  for (std::uint64_t batch = 0; batch < 12; ++batch) {
    const auto taken = loader.take();
    REQUIRE(taken);
    loader.request(batch + 1, shape_of(batch + 1));
    REQUIRE(static_cast<int>(taken->shape.input_columns()) == 3 * taken->shape.width * taken->shape.height);
    for (int row = 0; row < 4; ++row)
      for (const int column : {0, static_cast<int>(taken->shape.input_columns()) - 1})
        CHECK(taken->inputs[static_cast<std::size_t>(row)][column] == static_cast<float>(batch * 4 + static_cast<std::uint64_t>(row)));
    seen.push_back(taken->inputs[0]);
    if (batch == 2) CHECK(seen[2] == seen[0]);  // sizes are equal up to here
    if (batch > 0) CHECK(seen[batch] != seen[batch - 1]);
  }
  CHECK(loader.waiting_seconds() >= 0);
}

TEST_CASE("a path's class is the label in it, the longest of several") {
  const std::vector<std::string> labels = {"man", "woman", "cat", "dog"};
  CHECK(data::class_of_path("pictures/man/1.jpg", labels) == 0);
  CHECK(data::class_of_path("pictures/woman/1.jpg", labels) == 1);
  CHECK(data::class_of_path("pictures/bird/1.jpg", labels) == -1);
  CHECK(data::class_of_path("cat/dog.jpg", labels) == -1);
}

TEST_CASE("image sizes come from headers") {
  const Folder folder;
  const cv::Mat picture(31, 47, CV_8UC3, cv::Scalar(1, 2, 3));
  for (const char* name : {"a.jpg", "a.png", "a.bmp", "a.tif"}) {
    CAPTURE(std::string(name));
    REQUIRE(cv::imwrite(folder / name, picture));
    const auto size = data::read_image_size(folder / name);
    REQUIRE(size);
    CHECK(size->width == 47);
    CHECK(size->height == 31);
  }
  write(folder / "short.jpg", "\xFF\xD8\xFF");
  CHECK_FALSE(data::read_image_size(folder / "short.jpg"));
  CHECK_FALSE(data::read_image_size(folder / "none.jpg"));
}
