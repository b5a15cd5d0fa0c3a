#include "darknet/upstream/image_drawing.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <opencv2/imgproc.hpp>

#include "darknet/upstream/video.hpp"

namespace tessera::darknet {
namespace {

// Well apart from each other for neighbouring classes: steps of the golden ratio round the colour wheel.
cv::Scalar class_colour(int class_id) {
  const double hue = std::fmod(class_id * 0.61803398875, 1.0) * 180;
  cv::Mat pixel(1, 1, CV_8UC3, cv::Scalar(hue, 220, 230));
  cv::cvtColor(pixel, pixel, cv::COLOR_HSV2BGR);
  const auto& bgr = pixel.at<cv::Vec3b>(0, 0);
  return {static_cast<double>(bgr[0]), static_cast<double>(bgr[1]), static_cast<double>(bgr[2])};
}

void draw_label(cv::Mat& picture, const std::string& text, cv::Point corner, const cv::Scalar& colour, double scale) {
  int baseline = 0;
  const cv::Size size = cv::getTextSize(text, cv::FONT_HERSHEY_SIMPLEX, scale, 1, &baseline);
  const int bottom = std::max(corner.y, size.height + baseline);
  cv::rectangle(picture, {corner.x, bottom - size.height - baseline}, {corner.x + size.width, bottom}, colour, cv::FILLED);
  cv::putText(picture, text, {corner.x, bottom - baseline / 2 - 1}, cv::FONT_HERSHEY_SIMPLEX, scale, {0, 0, 0}, 1, cv::LINE_AA);
}

}  // namespace

void draw_objects(cv::Mat& picture, std::span<const observe::DetectedObject> objects, const std::vector<std::string>& names) {
  const int thickness = std::max(1, picture.rows / 200);
  const double scale = std::clamp(picture.rows / 900.0, 0.35, 1.2);
  // Weakest first, so that the strongest lie on top.
  for (std::size_t i = objects.size(); i-- > 0;) {
    const observe::DetectedObject& object = objects[i];
    const auto pixel = [](double relative, int side) { return std::clamp(static_cast<int>(relative * side), 0, side - 1); };
    const cv::Point top_left(pixel(object.box.x - object.box.w / 2, picture.cols), pixel(object.box.y - object.box.h / 2, picture.rows));
    const cv::Point bottom_right(pixel(object.box.x + object.box.w / 2, picture.cols),
                                 pixel(object.box.y + object.box.h / 2, picture.rows));
    const cv::Scalar colour = class_colour(object.class_id);
    cv::rectangle(picture, top_left, bottom_right, colour, thickness);
    draw_label(picture, fmt::format("{} {:.0f}%", names[static_cast<std::size_t>(object.class_id)], 100 * object.score), top_left, colour,
               scale);
  }
}

bool display_available() {
  const char *x11 = std::getenv("DISPLAY"), *wayland = std::getenv("WAYLAND_DISPLAY");
  return (x11 && *x11) || (wayland && *wayland);
}

bool show_picture(const std::string& title, const cv::Mat& picture, int milliseconds) {
  const VideoLibrary* video = video_library();
  const int key = video == nullptr ? -1 : video->show(title, picture, milliseconds) & 0xFF;
  return key == 27 || key == 'q';
}

}  // namespace tessera::darknet
