// Classification sets in their published formats, written byte by byte, and what is wrong with broken ones.
#include "data/image_set.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <opencv2/imgcodecs.hpp>

#include "data/classifier_data.hpp"
#include "data/pad_crop.hpp"
#include "tests/support/seed.hpp"

using namespace tessera;

namespace {

class Folder {
 public:
  Folder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "tessera-sets-XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  std::string write(const std::string& name, const std::string& bytes) const {
    std::filesystem::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name, std::ios::binary) << bytes;
    return (path_ / name).string();
  }
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

std::string bytes(std::initializer_list<int> values) { return {values.begin(), values.end()}; }

const std::vector<std::string> kTen{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"};

std::string mistake(const std::string& spec, const std::vector<std::string>& labels = kTen) {
  const auto set = data::open_image_set(spec, labels);
  return set ? "none" : set.error().message;
}

bool says(const std::string& message, const std::string& part) {
  INFO(message);
  INFO(part);
  return message.find(part) != std::string::npos;
}

// A picture of CIFAR's: red of pixel i is i, green i + 1, blue i + 2, all modulo 256.
std::string cifar_record(const std::string& labels) {
  std::string record = labels;
  for (int c = 0; c < 3; ++c)
    for (int i = 0; i < 32 * 32; ++i) record += static_cast<char>(i + c);
  return record;
}

}  // namespace

TEST_CASE("IDX files: pictures and labels, and parts of them that are IDX files again") {
  const Folder folder;
  const std::string images =
      folder.write("x", bytes({0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 2}) + bytes({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 250}));
  const std::string labels = folder.write("y", bytes({0, 0, 8, 1, 0, 0, 0, 3, 7, 0, 9}));
  const auto set = data::open_image_set("idx:" + images + ":" + labels, kTen);
  REQUIRE(set);
  CHECK((*set)->classes() == std::vector<int>{7, 0, 9});
  const auto picture = (*set)->picture(2);
  REQUIRE(picture);
  CHECK((picture->rows == 2 && picture->cols == 2 && picture->channels() == 3));
  CHECK(picture->at<cv::Vec3b>(0, 1) == cv::Vec3b(10, 10, 10));
  CHECK(picture->at<cv::Vec3b>(1, 1) == cv::Vec3b(250, 250, 250));

  const auto spec = (*set)->write_part({0, 2}, folder / "part");
  REQUIRE(spec);
  const auto part = data::open_image_set(*spec, kTen);
  REQUIRE(part);
  CHECK((*part)->classes() == std::vector<int>{7, 9});
  CHECK((*part)->picture(1)->at<cv::Vec3b>(1, 1)[0] == 250);

  CHECK(says(mistake("idx:" + images), "must name two files"));
  CHECK(says(mistake("idx:" + images + ":" + labels, {"a", "b"}), "picture 0 has class 7, but there are 2 labels (0 to 1)"));
  CHECK(says(mistake("idx:" + labels + ":" + labels), "is no IDX file of bytes with 3 dimensions"));
  CHECK(says(mistake("idx:" + folder / "absent" + ":" + labels), "absent: cannot be opened"));
  const std::string one = folder.write("one", bytes({0, 0, 8, 1, 0, 0, 0, 1, 7}));
  CHECK(says(mistake("idx:" + images + ":" + one), "has 3 pictures, but " + one + " has 1 labels"));
  const std::string cut = folder.write("cut", bytes({0, 0, 8, 1, 0, 0, 0, 3, 7, 0}));
  CHECK(says(mistake("idx:" + images + ":" + cut), "cut: has 10 bytes, which is not what its header says"));
  const std::string huge = folder.write("huge", bytes({0, 0, 8, 3, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255}));
  CHECK(says(mistake("idx:" + huge + ":" + labels), "is it whole?"));
  const std::string floats = folder.write("floats", bytes({0, 0, 13, 1, 0, 0, 0, 1, 7, 7, 7, 7}));
  CHECK(says(mistake("idx:" + images + ":" + floats), "is no IDX file of bytes with 1 dimension"));
  const std::string packed = folder.write("packed.gz", "\x1f\x8b...........");
  CHECK(says(mistake("idx:" + packed + ":" + labels), "is compressed; unpack it with gunzip"));
}

TEST_CASE("CIFAR's binary batches, several files one after the other") {
  const Folder folder;
  const std::string first = folder.write("1.bin", cifar_record(bytes({3})) + cifar_record(bytes({9})));
  const std::string second = folder.write("2.bin", cifar_record(bytes({0})));
  const auto ten = data::open_image_set("cifar10:" + first + "," + second, kTen);
  REQUIRE(ten);
  CHECK((*ten)->classes() == std::vector<int>{3, 9, 0});
  CHECK((*ten)->name(2) == second + " [0]");
  const auto picture = (*ten)->picture(1);
  REQUIRE(picture);
  CHECK((picture->rows == 32 && picture->cols == 32));
  CHECK(picture->at<cv::Vec3b>(1, 3) == cv::Vec3b(37, 36, 35));  // blue, green, red
  CHECK(picture->at<cv::Vec3b>(31, 31) == cv::Vec3b(1, 0, 255));
  const auto part = (*ten)->write_part({2, 0}, folder / "part");
  REQUIRE(part);
  CHECK((*data::open_image_set(*part, kTen))->classes() == std::vector<int>{0, 3});

  const std::string hundred = folder.write("train.bin", cifar_record(bytes({19, 99})) + cifar_record(bytes({0, 1})));
  CHECK((*data::open_image_set("cifar100:" + hundred, std::vector<std::string>(100, "x")))->classes() == std::vector<int>{99, 1});
  CHECK((*data::open_image_set("cifar100-coarse:" + hundred, std::vector<std::string>(20, "x")))->classes() == std::vector<int>{19, 0});
  CHECK(says(mistake("cifar100:" + hundred), "picture 0 has class 99, but there are 10 labels"));
  CHECK(says(mistake("cifar10:" + hundred), "not a multiple of the 3073 that a picture takes in CIFAR-10's binary batches"));
  CHECK(says(mistake("cifar10:" + folder.write("cut.bin", cifar_record(bytes({1})).substr(0, 3000))), "cut.bin: has 3000 bytes"));
  CHECK(says(mistake("cifar10:" + folder.write("none.bin", "")), "none.bin: has 0 bytes"));
  CHECK(says(mistake("cifar10:" + folder / "absent.bin"), "absent.bin: cannot be opened"));
  CHECK(says(mistake("cifar11:" + first), "there is no such kind of set"));
}

TEST_CASE("a folder for each class, as CINIC-10 has") {
  const Folder folder;
  for (const char* name : {"train/cat/cifar10-train-2.png", "train/cat/n0001.png", "train/dog/n0002.png"}) {
    folder.write(name, "");
    cv::imwrite(folder / name, cv::Mat(32, 32, CV_8UC3, cv::Scalar(1, 2, 200)));
  }
  folder.write("train/dog/notes.txt", "no picture");
  const auto set = data::open_image_set("folder:" + folder / "train", {"dog", "cat"});
  REQUIRE(set);
  CHECK((*set)->classes() == std::vector<int>{0, 1, 1});
  CHECK((*set)->name(1) == folder / "train/cat/cifar10-train-2.png");
  CHECK((*set)->picture(0)->at<cv::Vec3b>(0, 0) == cv::Vec3b(1, 2, 200));
  CHECK(says(mistake("folder:" + folder / "train", {"dog", "bird"}), "there must be a folder of pictures for every label"));
  folder.write("train/bird/notes.txt", "");
  CHECK(says(mistake("folder:" + folder / "train", {"dog", "bird"}), "bird: holds no .png, .jpg or .jpeg"));
  folder.write("train/dog/broken.png", "no picture");
  const auto broken = data::open_image_set("folder:" + folder / "train", {"dog"});
  REQUIRE(broken);
  CHECK_FALSE((*broken)->picture(0));
}

TEST_CASE("pad and crop, flip and cutout are functions of seed, sample and round") {
  constexpr int kSide = 8;
  std::vector<float> picture(2 * kSide * kSide);
  std::iota(picture.begin(), picture.end(), 1.0f);
  const auto augmented = [&](const data::PadCrop& settings, std::uint64_t seed, std::uint64_t sample, std::uint64_t round) {
    std::vector<float> copy = picture;
    data::pad_crop(settings, seed, sample, round, 2, kSide, kSide, copy.data());
    return copy;
  };
  CHECK(augmented({}, 1, 2, 3) == picture);
  const auto settings = data::parse_pad_crop("pad=2 flip cutout=3");
  REQUIRE(settings);
  CHECK((settings->pad == 2 && settings->flip && settings->cutout == 3));
  CHECK(augmented(*settings, 1, 2, 3) == augmented(*settings, 1, 2, 3));
  CHECK(augmented(*settings, 1, 2, 3) != augmented(*settings, 1, 2, 4));
  CHECK(augmented(*settings, 1, 2, 3) != augmented(*settings, 1, 3, 3));
  CHECK(augmented(*settings, 1, 2, 3) != augmented(*settings, 2, 2, 3));

  // Every shift from -2 to 2 occurs about equally often, with and without the flip; what comes in is black.
  std::vector<int> shifts(5), flips(2);
  for (std::uint64_t round = 0; round < 2000; ++round) {
    const std::vector<float> got = augmented({2, true, 0}, testing::seed(), 7, round);
    const std::size_t middle = 3 * kSide + 3;
    const int value = static_cast<int>(got[middle]) - 1, x = value % kSide;
    const bool flipped = got[middle + 1] < got[middle];
    const int shift = x - (flipped ? kSide - 1 - 3 : 3);
    REQUIRE((shift >= -2 && shift <= 2));
    ++shifts[static_cast<std::size_t>(shift + 2)], ++flips[flipped];
    CHECK(std::count(got.begin(), got.end(), 0.0f) % 2 == 0);  // the same in both channels
  }
  for (const int count : shifts) CHECK((count > 300 && count < 500));
  CHECK((flips[0] > 880 && flips[0] < 1120));

  // Cutout takes the square's cells, all of them black, in every channel.
  for (std::uint64_t round = 0; round < 50; ++round) {
    const std::vector<float> got = augmented({0, false, 4}, testing::seed(), 7, round);
    const auto black = std::count(got.begin(), got.end(), 0.0f);
    CHECK((black >= 2 * 4 && black <= 2 * 16));
  }
  CHECK(says(data::parse_pad_crop("pad=4 flop").error().message, "'flop' is no augmentation"));
  CHECK(says(data::parse_pad_crop("pad=-4").error().message, "'pad=-4'"));
  CHECK(says(data::parse_pad_crop("pad").error().message, "'pad'"));
}

TEST_CASE("every sample comes once a round, in another order each time") {
  for (const std::uint64_t count : {1u, 2u, 7u, 64u, 1000u}) {
    CAPTURE(count);
    std::vector<std::uint64_t> first, second;
    for (std::uint64_t position = 0; position < count; ++position) {
      first.push_back(data::shuffled(5, 0, position, count));
      second.push_back(data::shuffled(5, 1, position, count));
    }
    if (count >= 7) CHECK(first != second);
    std::vector<std::uint64_t> sorted = first, all(count);
    std::sort(sorted.begin(), sorted.end());
    std::iota(all.begin(), all.end(), 0u);
    CHECK(sorted == all);
    std::sort(second.begin(), second.end());
    CHECK(second == all);
  }
}

TEST_CASE("classifier samples of a grey set: one channel or three, each picture once a round") {
  const Folder folder;
  const std::string images = folder.write("x", bytes({0, 0, 8, 3, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 1, 0, 51, 102, 255}));
  const std::string labels = folder.write("y", bytes({0, 0, 8, 1, 0, 0, 0, 4, 3, 2, 1, 0}));
  const auto set = data::open_image_set("idx:" + images + ":" + labels, kTen);
  REQUIRE(set);
  data::ClassifierData samples(**set, {}, data::PadCrop{}, 1);
  for (const int channels : {1, 3}) {
    std::vector<float> seen;
    for (std::uint64_t sample = 8; sample < 12; ++sample) {
      std::vector<float> input(static_cast<std::size_t>(channels), -1), truth(10);
      REQUIRE(samples.make(sample, {1, 1, 1, channels, 10}, input.data(), truth.data()));
      const auto c = std::find(truth.begin(), truth.end(), 1.0f) - truth.begin();
      const float wanted = std::vector<float>{1.0f, 0.4f, 0.2f, 0.0f}[static_cast<std::size_t>(c)];
      for (const float value : input) CHECK(std::fabs(value - wanted) <= 1e-6f);
      seen.push_back(wanted);
    }
    std::sort(seen.begin(), seen.end());
    CHECK(seen == std::vector<float>{0.0f, 0.2f, 0.4f, 1.0f});
  }
}
