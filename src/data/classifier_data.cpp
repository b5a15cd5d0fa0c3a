#include "data/classifier_data.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <opencv2/imgproc.hpp>
#include <utility>

#include "data/detection_data.hpp"
#include "data/image_file.hpp"
#include "data/sample_rng.hpp"

namespace tessera::data {
namespace {

constexpr int kAttempts = 50;  // pictures tried for one sample before giving up

// Black outside the picture, as upstream's rotate_crop_image().
float pixel_or_black(const cv::Mat& picture, int x, int y, int channel) {
  const bool inside = x >= 0 && y >= 0 && x < picture.cols && y < picture.rows;
  return inside ? static_cast<float>(picture.ptr<unsigned char>(y)[3 * x + 2 - channel]) : 0.0f;
}

float interpolated(const cv::Mat& picture, float x, float y, int channel) {
  const int left = static_cast<int>(std::floor(x)), top = static_cast<int>(std::floor(y));
  const float dx = x - static_cast<float>(left), dy = y - static_cast<float>(top);
  const float above = (1 - dx) * pixel_or_black(picture, left, top, channel) + dx * pixel_or_black(picture, left + 1, top, channel);
  const float below = (1 - dx) * pixel_or_black(picture, left, top + 1, channel) + dx * pixel_or_black(picture, left + 1, top + 1, channel);
  return ((1 - dy) * above + dy * below) / 255.0f;
}

struct Crop {
  float scale = 1, aspect = 1, radians = 0, dx = 0, dy = 0;
};

Crop draw_crop(SampleRng& rng, const ClassifierAugmentation& settings, const cv::Mat& picture, const BatchShape& shape) {
  Crop crop;
  const float width = static_cast<float>(picture.cols), height = static_cast<float>(picture.rows), input = static_cast<float>(shape.width);
  crop.aspect = rng.scale(settings.aspect);
  const int low = static_cast<int>(settings.min_ratio * input), high = std::max(low, static_cast<int>(settings.max_ratio * input));
  const float side = static_cast<float>(low + static_cast<int>(rng.below(static_cast<std::uint64_t>(high - low) + 1)));
  crop.scale = side / std::min(height, width * crop.aspect);
  crop.radians = rng.between(-settings.angle, settings.angle) * std::numbers::pi_v<float> / 180;
  const float dx = (width * crop.scale / crop.aspect - input) / 2, dy = (height * crop.scale - input) / 2;
  crop.dx = rng.between(-dx, dx);
  crop.dy = rng.between(-dy, dy);
  return crop;
}

void take_crop(const cv::Mat& picture, const Crop& crop, const BatchShape& shape, float* planes) {
  const float cosine = std::cos(crop.radians), sine = std::sin(crop.radians);
  const float half_width = static_cast<float>(shape.width) / 2, half_height = static_cast<float>(shape.height) / 2;
  const std::size_t plane = static_cast<std::size_t>(shape.width) * shape.height;
  for (int y = 0; y < shape.height; ++y)
    for (int x = 0; x < shape.width; ++x) {
      const float across = (static_cast<float>(x) - half_width + crop.dx) / crop.scale * crop.aspect;
      const float down = (static_cast<float>(y) - half_height + crop.dy) / crop.scale;
      const float from_x = cosine * across - sine * down + static_cast<float>(picture.cols) / 2;
      const float from_y = sine * across + cosine * down + static_cast<float>(picture.rows) / 2;
      for (int c = 0; c < shape.channels; ++c)
        planes[static_cast<std::size_t>(c) * plane + static_cast<std::size_t>(y) * shape.width + x] =
            interpolated(picture, from_x, from_y, c);
    }
}

}  // namespace

ClassifierData::ClassifierData(const ImageSet& images, ClassifierAugmentation augmentation, std::optional<PadCrop> pad_crop,
                               std::uint64_t seed)
    : images_(images), augmentation_(augmentation), pad_crop_(pad_crop), seed_(seed) {}

base::Status ClassifierData::make(std::uint64_t sample, const BatchShape& shape, float* input, float* truth) {
  const std::uint64_t count = images_.size(), round = sample / count;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    SampleRng rng(seed_, sample, static_cast<std::uint64_t>(attempt));
    const std::size_t index = pad_crop_ && attempt == 0 ? shuffled(seed_, round, sample % count, count) : rng.below(count);
    const auto picture = images_.picture(index);
    if (!picture) {
      const std::lock_guard lock(mutex_);
      if (unreadable_.insert(index).second) problems_.push_back(picture.error().message);
      continue;
    }
    if (pad_crop_) {
      center_crop(*picture, shape.channels, shape.width, shape.height, input);
      pad_crop(*pad_crop_, seed_, index, round, shape.channels, shape.height, shape.width, input);
    } else {
      augment(*picture, shape, rng, input);
    }
    truth[images_.class_of(index)] = 1;
    return {};
  }
  return base::error(base::ErrorCode::kIo, "{} pictures in a row could not be read (the list has {}); see bad.list", kAttempts,
                     images_.size());
}

void ClassifierData::augment(const cv::Mat& picture, const BatchShape& shape, SampleRng& rng, float* input) const {
  if (augmentation_.center)
    center_crop(picture, shape.channels, shape.width, shape.height, input);
  else
    take_crop(shape.channels == 1 ? grey_picture(picture) : picture, draw_crop(rng, augmentation_, picture, shape), shape, input);
  if (rng.next() & 1)
    for (int row = 0; row < shape.channels * shape.height; ++row)
      std::reverse(input + static_cast<std::size_t>(row) * shape.width, input + static_cast<std::size_t>(row + 1) * shape.width);
  const float hue = rng.between(-augmentation_.hue, augmentation_.hue), saturation = rng.scale(augmentation_.saturation),
              exposure = rng.scale(augmentation_.exposure);
  if (shape.channels == 3 && (hue != 0 || saturation != 1 || exposure != 1))
    distort_colours(input, static_cast<std::size_t>(shape.width) * shape.height, hue, saturation, exposure);
}

std::vector<std::string> ClassifierData::new_problems() {
  const std::lock_guard lock(mutex_);
  return std::exchange(problems_, {});
}

void center_crop(const cv::Mat& picture, int channels, int width, int height, float* planes) {
  const int side = std::min(picture.cols, picture.rows);
  const cv::Mat middle = picture(cv::Rect((picture.cols - side) / 2, (picture.rows - side) / 2, side, side));
  const Crop whole{static_cast<float>(width) / static_cast<float>(side), 1, 0, 0, 0};
  take_crop(channels == 1 ? grey_picture(middle) : middle, whole, {1, width, height, channels, 0}, planes);
}

cv::Mat grey_picture(const cv::Mat& picture) {
  cv::Mat grey, channels;
  cv::cvtColor(picture, grey, cv::COLOR_BGR2GRAY);
  cv::cvtColor(grey, channels, cv::COLOR_GRAY2BGR);
  return channels;
}

}  // namespace tessera::data
