// Draws boxes on pictures and puts the pictures side by side.
//
// The boxes come from a result file of `darknet detector test ... -out result.json`: an array of
//   {"filename": "...", "objects": [{"name": "...", "confidence": 0.9,
//     "relative_coordinates": {"center_x": ., "center_y": ., "width": ., "height": .}}, ...]}
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <string>
#include <vector>

#include "base/result.hpp"

namespace {

using tessera::base::ErrorCode;
using tessera::base::Result;
using tessera::base::Status;

struct Options {
  std::string results;
  std::string out;
  int columns = 4;
  int size = 320;
  double threshold = 0.25;
};

struct Detection {
  std::string name;
  double confidence = 0;
  cv::Rect2d box;  // relative to the picture, 0..1
};

struct Picture {
  std::string path;
  std::vector<Detection> detections;
};

Result<std::vector<Picture>> read_results(const std::string& path) {
  std::ifstream file(path);
  if (!file)
    return tessera::base::error(ErrorCode::kNotFound, "cannot open {}; write it with `darknet detector test ... -out {}`", path, path);
  std::vector<Picture> pictures;
  try {
    for (const nlohmann::json& frame : nlohmann::json::parse(file)) {
      Picture picture{frame.at("filename").get<std::string>(), {}};
      for (const nlohmann::json& object : frame.at("objects")) {
        const nlohmann::json& place = object.at("relative_coordinates");
        const double width = place.at("width"), height = place.at("height");
        picture.detections.push_back(
            {object.at("name"),
             object.at("confidence"),
             {place.at("center_x").get<double>() - width / 2, place.at("center_y").get<double>() - height / 2, width, height}});
      }
      pictures.push_back(std::move(picture));
    }
  } catch (const nlohmann::json::exception& failure) {
    return tessera::base::error(ErrorCode::kInvalidArgument, "{} is not a result file of `darknet detector test -out`: {}", path,
                                failure.what());
  }
  if (pictures.empty()) return tessera::base::error(ErrorCode::kInvalidArgument, "{} lists no picture", path);
  return pictures;
}

// A colour per class name, in order of first appearance; easily told apart.
class Palette {
 public:
  cv::Scalar operator[](const std::string& name) {
    static const std::vector<cv::Scalar> kColours = {{60, 60, 255},  {80, 220, 80},  {255, 150, 40},  {40, 210, 255},
                                                     {255, 80, 220}, {230, 230, 60}, {160, 110, 255}, {200, 200, 200}};
    const std::size_t next = numbers_.size();
    return kColours[numbers_.try_emplace(name, next).first->second % kColours.size()];
  }

 private:
  std::map<std::string, std::size_t> numbers_;
};

void draw(cv::Mat& picture, const Detection& detection, const cv::Scalar& colour) {
  const cv::Rect2d& box = detection.box;
  const cv::Rect pixels(static_cast<int>(std::lround(box.x * picture.cols)), static_cast<int>(std::lround(box.y * picture.rows)),
                        static_cast<int>(std::lround(box.width * picture.cols)), static_cast<int>(std::lround(box.height * picture.rows)));
  cv::rectangle(picture, pixels, colour, 2, cv::LINE_AA);
  const std::string caption = fmt::format("{} {:.0f}%", detection.name, 100 * detection.confidence);
  int baseline = 0;
  const cv::Size text = cv::getTextSize(caption, cv::FONT_HERSHEY_SIMPLEX, 0.4, 1, &baseline);
  const int left = std::clamp(pixels.x - 1, 0, std::max(0, picture.cols - text.width - 4));
  const int bottom = std::max(pixels.y, text.height + 6);
  cv::rectangle(picture, {left, bottom - text.height - 6}, {left + text.width + 4, bottom}, colour, cv::FILLED);
  cv::putText(picture, caption, {left + 2, bottom - 4}, cv::FONT_HERSHEY_SIMPLEX, 0.4, {0, 0, 0}, 1, cv::LINE_AA);
}

Status make_mosaic(const Options& options) {
  if (!cv::haveImageWriter(options.out))
    return tessera::base::error(ErrorCode::kInvalidArgument, "{} is no picture's name; end it in .jpg or .png", options.out);
  TESSERA_ASSIGN(const std::vector<Picture> pictures, read_results(options.results));
  constexpr int kGap = 6;
  const int count = static_cast<int>(pictures.size());
  const int columns = std::min(options.columns, count);
  const int rows = (count + columns - 1) / columns;
  const int pitch = options.size + kGap;
  cv::Mat mosaic(rows * pitch + kGap, columns * pitch + kGap, CV_8UC3, cv::Scalar(255, 255, 255));
  Palette palette;
  for (int i = 0; i < count; ++i) {
    const Picture& picture = pictures[static_cast<std::size_t>(i)];
    const cv::Mat source = cv::imread(picture.path);
    if (source.empty()) return tessera::base::error(ErrorCode::kIo, "cannot read picture {} named in {}", picture.path, options.results);
    cv::Mat cell = mosaic({kGap + i % columns * pitch, kGap + i / columns * pitch, options.size, options.size});
    cv::resize(source, cell, cell.size(), 0, 0, cv::INTER_AREA);
    for (const Detection& detection : picture.detections)
      if (detection.confidence >= options.threshold) draw(cell, detection, palette[detection.name]);
  }
  if (!cv::imwrite(options.out, mosaic, {cv::IMWRITE_JPEG_QUALITY, 92}))
    return tessera::base::error(ErrorCode::kIo, "cannot write {}; does its folder exist?", options.out);
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"Draws the detections of `darknet detector test ... -out result.json` into one picture."};
  app.add_option("--results", options.results, "result file")->required();
  app.add_option("--out", options.out, "picture to write (.jpg or .png)")->required();
  app.add_option("--columns", options.columns, "pictures per row")->check(CLI::Range(1, 64))->capture_default_str();
  app.add_option("--size", options.size, "width and height of one picture in pixels")->check(CLI::Range(64, 2048))->capture_default_str();
  app.add_option("--threshold", options.threshold, "least confidence to draw")->check(CLI::Range(0.0, 1.0))->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  try {
    const Status status = make_mosaic(options);
    if (!status) {
      fmt::print(stderr, "mosaic: {}\n", status.error().message);
      return 1;
    }
  } catch (const cv::Exception& failure) {  // out of memory, mostly
    fmt::print(stderr, "mosaic: {}\n", failure.err);
    return 1;
  }
  return 0;
}
