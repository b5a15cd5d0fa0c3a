// Reading pictures, with an error instead of an exit where one is unreadable.
#pragma once

#include <opencv2/core.hpp>

#include <string>

#include "base/result.hpp"

namespace tessera::data {

// 8-bit BGR, turned upright as EXIF data says. A picture that is damaged in part is an error, too, unless `damage` is given:
// it then says what is wrong ("" when nothing is).
[[nodiscard]] base::Result<cv::Mat> read_image(const std::string& path, std::string* damage = nullptr);

struct ImageSize {
  int width = 0, height = 0;
};

// As read_image() has it. From the header of a JPEG or PNG that ends as it should; others are decoded.
[[nodiscard]] base::Result<ImageSize> read_image_size(const std::string& path);

// Writes in the format the extension says, through a temporary file.
[[nodiscard]] base::Status write_image(const std::string& path, const cv::Mat& picture);

// The picture as a network sees it in tests: scaled to fit, centred on grey, planes R, G, B in 0..1. Same pixels
// as upstream's letterbox_image(). `planes` holds 3 * height * width floats.
void letterbox(const cv::Mat& picture, int width, int height, float* planes);
// The same, stretched to the network's size. Same pixels as upstream's resize_image().
void stretch(const cv::Mat& picture, int width, int height, float* planes);

}  // namespace tessera::data
