#include <doctest/doctest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <opencv2/imgcodecs.hpp>
#include <regex>
#include <string>
#include <vector>

#include "observe/chart.hpp"
#include "observe/log_line.hpp"
#include "observe/progress.hpp"

using namespace tessera::observe;

TEST_CASE("the log line is the one tools parse") {
  CHECK(log_line({12, 3.456, 3.6, 0.001, 0.52, 96, 0.3}) ==
        "12: 3.456000, 3.600000 avg loss, 0.001000 rate, 0.520 seconds, 96 images, 0.30 hours left");
}

TEST_CASE("a small rate keeps its digits and never gets an exponent") {
  CHECK(decimal(0) == "0.000000");
  CHECK(decimal(0.001) == "0.001000");
  CHECK(decimal(0.0000001234) == "0.0000001234");
  CHECK(decimal(123.5) == "123.500000");
  for (int burn_in = 1; burn_in <= 1000; ++burn_in) {
    CAPTURE(burn_in);
    const double rate = 0.001 * std::pow(burn_in / 1000.0, 4);
    const std::string text = decimal(rate);
    CHECK(std::regex_match(text, std::regex("[0-9]+\\.[0-9]+")));
    CHECK(std::abs(std::stod(text) - rate) <= 1e-3 * rate);
  }
}

TEST_CASE("the live line fits the terminal") {
  Progress progress{500, 1000, 123.4, 3725, 0.5432, 0.812};
  const std::string line = live_line(progress, 0);
  CHECK(line == "[############------------] 50.0%  500/1000  123.4 images/s  1h02m left  loss 0.5432  best mAP 81.2%");
  CHECK(live_line(progress, 40).size() == 40);
  progress.best_map = -1;
  CHECK(live_line(progress, 0).find("mAP") == std::string::npos);
  CHECK(live_line({}, 0).find("0.0%") != std::string::npos);
}

TEST_CASE("times and sizes for people") {
  CHECK(duration_text(12.4) == "12s");
  CHECK(duration_text(200) == "3m20s");
  CHECK(duration_text(3725) == "1h02m");
  CHECK(duration_text(NAN) == "?");
  CHECK(duration_text(-1) == "?");
  CHECK(bytes_text(567) == "567 B");
  CHECK(bytes_text(1234) == "1.2 kB");
  CHECK(bytes_text(34e6) == "34 MB");
  CHECK(bytes_text(999.7e6) == "1.0 GB");
}

TEST_CASE("the table of devices") {
  DeviceReport one{"pi1", 8, 1.5, 20000000, 10000, 300000000, 400000000, true}, two;
  two.name = "a-longer-name";
  two.alive = false;
  const std::vector<DeviceReport> devices = {one, two};
  const std::string table = device_table(devices, 10);
  CHECK(table.find("pi1") != std::string::npos);
  CHECK(table.find("80%") != std::string::npos);
  CHECK(table.find("15%") != std::string::npos);
  CHECK(table.find("2.0 MB") != std::string::npos);
  CHECK(table.find("1.0 kB") != std::string::npos);
  CHECK(table.find("300 MB") != std::string::npos);
  CHECK(table.find("a-longer-name  lost") != std::string::npos);
  CHECK(device_table(devices, 0).find('-') != std::string::npos);
}

TEST_CASE("thinning keeps the newest point, the order and the span") {
  for (std::size_t count = 90; count < 130; ++count) {
    CAPTURE(count);
    std::vector<ChartPoint> points;
    for (std::size_t i = 0; i < count; ++i) points.push_back({i, static_cast<double>(i)});
    thin(points, 100);
    CHECK(points.size() <= 100);
    CHECK(points.back().iteration == count - 1);
    CHECK(points.front().iteration <= 1);
    for (std::size_t i = 1; i < points.size(); ++i) CHECK(points[i].iteration > points[i - 1].iteration);
  }
}

TEST_CASE("the loss axis ignores a few wild points") {
  std::vector<ChartPoint> loss;
  for (std::uint64_t i = 0; i < 100; ++i) loss.push_back({i, i < 3 ? 5000.0 : 3.0});
  CHECK(loss_ceiling(loss) == doctest::Approx(5));
  CHECK(loss_ceiling({}) == 1);
  CHECK(loss_ceiling({{1, NAN}, {2, 0.015}}) == doctest::Approx(0.02));
}

TEST_CASE("a chart is a picture with both curves in it") {
  const std::string path = (std::filesystem::temp_directory_path() / ("tessera-chart-" + std::to_string(::getpid()) + ".png")).string();
  ChartData data;
  data.title = "x";
  data.iterations = 100;
  for (std::uint64_t i = 1; i <= 100; ++i) data.loss.push_back({i, 10.0 / static_cast<double>(i)});
  data.precision = {{50, 0.4}, {100, 0.9}};
  REQUIRE(write_chart(data, path));
  const cv::Mat picture = cv::imread(path);
  REQUIRE(!picture.empty());
  int blue = 0, red = 0;
  for (int y = 60; y < picture.rows - 70; ++y)
    for (int x = 80; x < picture.cols - 80; ++x) {
      const auto& pixel = picture.at<cv::Vec3b>(y, x);
      blue += pixel[0] > 150 && pixel[2] < 80;
      red += pixel[2] > 150 && pixel[0] < 80;
    }
  CHECK(blue > 200);
  CHECK(red > 200);
  std::filesystem::remove(path);
  const auto failed = write_chart(data, "/no/such/folder/chart.png");
  REQUIRE_FALSE(failed);
  CHECK(failed.error().message.find("/no/such/folder/chart.png") != std::string::npos);
  CHECK(write_chart({}, path));
  std::filesystem::remove(path);
}
