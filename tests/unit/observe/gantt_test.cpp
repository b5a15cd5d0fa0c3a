#include "observe/gantt.hpp"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdio>
#include <opencv2/imgcodecs.hpp>

using namespace tessera::observe;

TEST_CASE("gantt: text shows who does what when, the picture has a bar for each span") {
  const Gantt gantt{"a round", {"computation", "upload"}, {{"a", {{0, 1, 0}, {1, 2, 1}}}, {"long", {{0, 0.5, 1}, {1.5, 2, 0}}}}};
  CHECK(gantt.end() == 2);
  CHECK(gantt_text(gantt, 8) == "a    |ccccuuuu|\nlong |uu....cc|\n      0    2 s\nc computation, u upload\n");
  const std::string path = "/tmp/tessera-gantt-" + std::to_string(::getpid()) + ".png";
  REQUIRE(write_gantt(gantt, path).has_value());
  const cv::Mat picture = cv::imread(path);
  REQUIRE(picture.cols == 1000);
  const int row = 70 + 13, bar = picture.at<cv::Vec3b>(row, 200)[0];
  CHECK(bar == 180);                                      // computation begins there ...
  CHECK(picture.at<cv::Vec3b>(row, 900)[0] == 14);        // ... and upload ends there
  CHECK(picture.at<cv::Vec3b>(row + 26, 550)[0] == 255);  // nothing in the middle of the second
  std::remove(path.c_str());
  CHECK_FALSE(write_gantt(gantt, "/nowhere/at/all.png").has_value());
}
