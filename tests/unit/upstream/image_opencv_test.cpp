// Darknet's image functions on OpenCV: values, channel order, and files that are no images.
#include <darknet.h>
#include <doctest/doctest.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <opencv2/core.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/videoio.hpp>
#include <string>

extern "C" {
image load_image_cv(char* filename, int channels);
int show_image_cv(image picture, const char* window, int wait_ms);
}

namespace {

namespace fs = std::filesystem;

// A directory that is the current one while this lives.
class Workplace {
 public:
  Workplace() : before_(fs::current_path()) {
    std::string path = (fs::temp_directory_path() / "tessera-image-XXXXXX").string();
    REQUIRE(mkdtemp(path.data()) != nullptr);
    here_ = path;
    fs::current_path(here_);
  }
  ~Workplace() {
    fs::current_path(before_);
    fs::remove_all(here_);
  }

 private:
  fs::path before_, here_;
};

struct Picture : image {
  explicit Picture(image other) : image(other) {}
  Picture(const Picture&) = delete;
  ~Picture() { free_image(*this); }
  float at(int channel, int y, int x) const { return data[(channel * h + y) * w + x]; }
};

Picture load(std::string path, int channels) { return Picture(load_image_cv(path.data(), channels)); }

std::string read_text(const char* path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

TEST_CASE("a colour image arrives planar, in RGB order, scaled to [0,1]") {
  Workplace workplace;
  cv::Mat pixels(2, 3, CV_8UC3);
  for (int y = 0; y < 2; ++y)
    for (int x = 0; x < 3; ++x) pixels.at<cv::Vec3b>(y, x) = cv::Vec3b(10 * y + x, 100 + 10 * y + x, 200 + 10 * y + x);
  REQUIRE(cv::imwrite("colour.png", pixels));

  for (int channels : {0, 3}) {
    CAPTURE(channels);
    const Picture picture = load("colour.png", channels);
    REQUIRE(picture.w == 3);
    REQUIRE(picture.h == 2);
    REQUIRE(picture.c == 3);
    for (int y = 0; y < 2; ++y)
      for (int x = 0; x < 3; ++x)
        for (int c = 0; c < 3; ++c) CHECK(picture.at(c, y, x) == static_cast<float>((200 - 100 * c + 10 * y + x) / 255.));
  }
  const Picture grey = load("colour.png", 1);
  CHECK(grey.c == 1);
  CHECK(grey.at(0, 1, 2) > grey.at(0, 0, 0));
}

TEST_CASE("grey, transparent and 16-bit images keep their channels and values") {
  Workplace workplace;
  REQUIRE(cv::imwrite("grey.png", cv::Mat(2, 2, CV_8UC1, cv::Scalar(51))));
  REQUIRE(cv::imwrite("alpha.png", cv::Mat(2, 2, CV_8UC4, cv::Scalar(0, 51, 102, 255))));
  REQUIRE(cv::imwrite("deep.png", cv::Mat(2, 2, CV_16UC1, cv::Scalar(13107))));

  const Picture grey = load("grey.png", 0);
  CHECK(grey.c == 1);
  CHECK(grey.at(0, 1, 1) == static_cast<float>(51 / 255.));
  const Picture as_colour = load("grey.png", 3);
  CHECK(as_colour.c == 3);
  CHECK(as_colour.at(2, 0, 0) == static_cast<float>(51 / 255.));
  const Picture alpha = load("alpha.png", 0);
  REQUIRE(alpha.c == 4);
  CHECK(alpha.at(0, 0, 0) == static_cast<float>(102 / 255.));
  CHECK(alpha.at(2, 0, 0) == 0.0f);
  CHECK(alpha.at(3, 0, 0) == 1.0f);
  const Picture deep = load("deep.png", 0);
  CHECK(deep.at(0, 0, 0) == static_cast<float>(13107 / 65535.));
}

TEST_CASE("a file that is no image yields a placeholder and a line in bad.list") {
  Workplace workplace;
  const std::string hostile = "$(touch created); touch created #.jpg";
  std::ofstream("text.jpg") << "not an image";
  for (const std::string& path : {std::string("absent.jpg"), std::string("text.jpg"), hostile}) {
    CAPTURE(path);
    const Picture picture = load(path, 3);
    CHECK(picture.w == 10);
    CHECK(picture.h == 10);
    CHECK(picture.c == 3);
    CHECK(picture.at(2, 9, 9) == 0.0f);
  }
  CHECK(load("absent.jpg", 1).c == 1);
  CHECK(read_text("bad.list") == "absent.jpg\ntext.jpg\n" + hostile + "\nabsent.jpg\n");
  CHECK(!fs::exists("created"));
}

TEST_CASE("a video is read frame by frame to its end") {
  Workplace workplace;
  constexpr int kFrames = 3;
  cv::VideoWriter writer("film.avi", cv::VideoWriter::fourcc('M', 'J', 'P', 'G'), 10, cv::Size(32, 16));
  REQUIRE(writer.isOpened());
  for (int frame = 0; frame < kFrames; ++frame) writer << cv::Mat(16, 32, CV_8UC3, cv::Scalar(0, 0, 80.0 * (frame + 1)));
  writer.release();

  void* stream = open_video_stream("film.avi", 0, 0, 0, 0);
  REQUIRE(stream != nullptr);
  for (int frame = 0; frame < kFrames; ++frame) {
    CAPTURE(frame);
    const Picture picture(get_image_from_stream(stream));
    REQUIRE(picture.w == 32);
    REQUIRE(picture.h == 16);
    CHECK(picture.at(0, 8, 8) == doctest::Approx(80 * (frame + 1) / 255.).epsilon(0.05));
    CHECK(picture.at(2, 8, 8) < 0.05f);
  }
  CHECK(get_image_from_stream(stream).data == nullptr);
  delete static_cast<cv::VideoCapture*>(stream);
  CHECK(open_video_stream("absent.avi", 0, 0, 0, 0) == nullptr);
}

TEST_CASE("without a display nothing is shown and nothing ends") {
  for (const char* variable : {"DISPLAY", "WAYLAND_DISPLAY"}) unsetenv(variable);
  const Picture picture(make_image(4, 4, 3));
  char window[] = "window";
  make_window(window, 10, 10, 0);
  CHECK(show_image_cv(picture, window, 0) == -1);
}
