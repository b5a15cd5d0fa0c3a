#include "data/detection_data.hpp"

#include <algorithm>
#include <cmath>
#include <opencv2/core.hpp>

#include "data/image_file.hpp"
#include "data/sample_rng.hpp"

namespace tessera::data {
namespace {

constexpr int kAttempts = 50;           // pictures tried for one sample before giving up
constexpr float kSmallestBox = 0.001f;  // of the input's side, as upstream
constexpr int kTruthColumns = 5;        // x, y, w, h, class

// Position of target pixel `i` of `target` in a source of `source` pixels: upstream's place_image(), which takes a
// pixel beyond the border as black.
struct Tap {
  int first = 0;
  float weight = 0;  // of first + 1
};

Tap tap(int i, int target, int source) {
  const float position = (static_cast<float>(i) / static_cast<float>(target)) * static_cast<float>(source);
  const int first = static_cast<int>(position);
  return {first, position - static_cast<float>(first)};
}

void place_picture(const cv::Mat& picture, const Placement& placement, const BatchShape& shape, float* planes) {
  const std::size_t plane = static_cast<std::size_t>(shape.width) * shape.height;
  std::fill_n(planes, plane * 3, 0.5f);
  const int width = static_cast<int>(placement.width), height = static_cast<int>(placement.height);
  const int left = static_cast<int>(placement.left), top = static_cast<int>(placement.top);
  const int x_begin = std::max(0, -left), x_end = std::min(width, shape.width - left);
  if (x_begin >= x_end) return;

  std::vector<Tap> taps;
  for (int x = x_begin; x < x_end; ++x) taps.push_back(tap(x, width, picture.cols));
  const std::vector<unsigned char> black(static_cast<std::size_t>(picture.cols) * 3, 0);
  for (int y = std::max(0, -top); y < std::min(height, shape.height - top); ++y) {
    const Tap row = tap(y, height, picture.rows);
    const unsigned char* upper = picture.ptr<unsigned char>(row.first);
    const unsigned char* lower = row.first + 1 < picture.rows ? picture.ptr<unsigned char>(row.first + 1) : black.data();
    float* out = planes + static_cast<std::size_t>(y + top) * shape.width + (x_begin + left);
    for (const Tap& column : taps) {
      const bool inside = column.first + 1 < picture.cols;
      for (int c = 0; c < 3; ++c) {
        const int at = 3 * column.first + 2 - c;
        const float a = upper[at], b = inside ? upper[at + 3] : 0.0f, d = lower[at], e = inside ? lower[at + 3] : 0.0f;
        const float above = a + (b - a) * column.weight, below = d + (e - d) * column.weight;
        out[static_cast<std::size_t>(c) * plane] = (above + (below - above) * row.weight) * (1.0f / 255.0f);
      }
      ++out;
    }
  }
}

void flip_planes(float* planes, const BatchShape& shape) {
  for (int row = 0; row < 3 * shape.height; ++row) {
    float* start = planes + static_cast<std::size_t>(row) * shape.width;
    std::reverse(start, start + shape.width);
  }
}

void draw_look(SampleRng& rng, const DetectionAugmentation& settings, Placement& p) {
  p.hue = rng.between(-settings.hue, settings.hue);
  p.saturation = rng.scale(settings.saturation);
  p.exposure = rng.scale(settings.exposure);
  p.flip = (rng.next() & 1) && settings.flip;
}

// A part of the picture, up to jitter (and resize) of its sides taken off or added on each side, fills the input.
void place_part(SampleRng& rng, const DetectionAugmentation& settings, int image_width, int image_height, const BatchShape& shape,
                Placement& p) {
  const auto width = static_cast<float>(image_width), height = static_cast<float>(image_height);
  const float smaller = settings.resize > 1 ? settings.resize : 1 / std::max(settings.resize, 1e-3f);
  const auto border = [&](float side) {
    const float zoom = settings.resize == 1 ? 0 : rng.between(side * (1 - smaller) / 2, side * (1 - 1 / smaller) / 2);
    return rng.between(-settings.jitter * side, settings.jitter * side) + zoom;
  };
  float left = border(width), right = border(width), top = border(height), bottom = border(height);
  const float input = static_cast<float>(shape.width) / static_cast<float>(shape.height);
  if (settings.crop && width / height > input)
    top -= (width / input - height) / 2, bottom -= (width / input - height) / 2;
  else if (settings.crop)
    left -= (height * input - width) / 2, right -= (height * input - width) / 2;
  const float x_scale = static_cast<float>(shape.width) / std::max(1.0f, width - left - right),
              y_scale = static_cast<float>(shape.height) / std::max(1.0f, height - top - bottom);
  p.width = width * x_scale, p.height = height * y_scale;
  p.left = -left * x_scale, p.top = -top * y_scale;
}

}  // namespace

Placement draw_placement(SampleRng& rng, const DetectionAugmentation& settings, int image_width, int image_height,
                         const BatchShape& shape) {
  Placement p;
  if (settings.stretch || settings.crop) {
    place_part(rng, settings, image_width, image_height, shape, p);
    draw_look(rng, settings, p);
    return p;
  }
  const float dw = settings.jitter * static_cast<float>(image_width), dh = settings.jitter * static_cast<float>(image_height);
  const float wide = static_cast<float>(image_width) + rng.between(-dw, dw);
  const float high = static_cast<float>(image_height) + rng.between(-dh, dh);
  const float aspect = wide / high;
  const float input_width = static_cast<float>(shape.width), input_height = static_cast<float>(shape.height);
  p.width = aspect < 1 ? input_height * aspect : input_width;
  p.height = aspect < 1 ? input_height : input_width / aspect;
  p.left = rng.between(0, input_width - p.width);
  p.top = rng.between(0, input_height - p.height);
  draw_look(rng, settings, p);
  return p;
}

std::vector<Label> place_labels(std::vector<Label> labels, const Placement& p, const BatchShape& shape) {
  const float input_width = static_cast<float>(shape.width), input_height = static_cast<float>(shape.height);
  const auto placed = [](float value, float size, float offset, float side) {
    return std::clamp((value * size + offset) / side, 0.0f, 1.0f);
  };
  std::vector<Label> result;
  for (Label& label : labels) {
    float left = placed(label.x - label.w / 2, p.width, p.left, input_width);
    float right = placed(label.x + label.w / 2, p.width, p.left, input_width);
    const float top = placed(label.y - label.h / 2, p.height, p.top, input_height);
    const float bottom = placed(label.y + label.h / 2, p.height, p.top, input_height);
    if (p.flip) {
      std::swap(left, right);
      left = 1 - left;
      right = 1 - right;
    }
    label.x = (left + right) / 2;
    label.y = (top + bottom) / 2;
    label.w = right - left;
    label.h = bottom - top;
    if (label.w >= kSmallestBox && label.h >= kSmallestBox) result.push_back(label);
  }
  return result;
}

void distort_colours(float* planes, std::size_t pixels, float hue, float saturation, float value) {
  float *red = planes, *green = planes + pixels, *blue = planes + 2 * pixels;
  for (std::size_t i = 0; i < pixels; ++i) {
    const float r = red[i], g = green[i], b = blue[i];
    const float most = std::max({r, g, b}), range = most - std::min({r, g, b});
    float h = 0, s = 0;
    if (range > 0) {
      s = range / most;
      h = r == most ? (g - b) / range : g == most ? 2 + (b - r) / range : 4 + (r - g) / range;
      h = (h < 0 ? h + 6 : h) / 6;
    }
    h += hue;
    h -= std::floor(h);
    s *= saturation;
    const float v = most * value;
    // hsv to rgb: each channel is v lowered by v*s times its distance on the colour wheel.
    const auto channel = [&](float turn) {
      const float turned = turn + h * 6, k = turned < 6 ? turned : turned - 6;  // at most once round
      return std::clamp(v - v * s * std::max(0.0f, std::min({k, 4 - k, 1.0f})), 0.0f, 1.0f);
    };
    red[i] = channel(5);
    green[i] = channel(3);
    blue[i] = channel(1);
  }
}

DetectionData::DetectionData(std::vector<std::string> images, int classes, DetectionAugmentation augmentation, std::uint64_t seed)
    : images_(std::move(images)), classes_(classes), augmentation_(augmentation), seed_(seed) {}

base::Status DetectionData::make(std::uint64_t sample, const BatchShape& shape, float* input, float* truth) {
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    SampleRng rng(seed_, sample, static_cast<std::uint64_t>(attempt));
    const std::string& path = images_[rng.below(images_.size())];
    const auto picture = read_image(path);
    if (!picture) {
      report(path, picture.error().message);
      continue;
    }
    auto labels = usable_labels(path);
    if (!labels) {
      report(label_path(path), labels.error().message);
      continue;
    }
    const Placement placement = draw_placement(rng, augmentation_, picture->cols, picture->rows, shape);
    place_picture(*picture, placement, shape, input);
    if (augmentation_.hue != 0 || augmentation_.saturation != 1 || augmentation_.exposure != 1)
      distort_colours(input, static_cast<std::size_t>(shape.width) * shape.height, placement.hue, placement.saturation, placement.exposure);
    if (placement.flip) flip_planes(input, shape);

    std::vector<Label> boxes = place_labels(std::move(*labels), placement, shape);
    // In random order, so that another part is dropped each time where there are too many.
    for (std::size_t i = boxes.size(); i > 1; --i) std::swap(boxes[i - 1], boxes[rng.below(i)]);
    const std::size_t most = static_cast<std::size_t>(shape.truth_columns / kTruthColumns);
    for (std::size_t i = 0; i < std::min(boxes.size(), most); ++i) {
      const Label& box = boxes[i];
      const float values[kTruthColumns] = {box.x, box.y, box.w, box.h, static_cast<float>(box.class_id)};
      std::copy_n(values, kTruthColumns, truth + i * kTruthColumns);
    }
    return {};
  }
  return base::error(base::ErrorCode::kIo, "{} pictures in a row could not be used (the list has {}); see bad.list and bad_label.list",
                     kAttempts, images_.size());
}

void DetectionData::report(const std::string& path, const std::string& message) {
  const std::lock_guard lock(mutex_);
  if (reported_.insert(path).second) problems_.push_back({path, message});
}

// A class out of range would make upstream's loss layers write outside their arrays.
base::Result<std::vector<Label>> DetectionData::usable_labels(const std::string& image) const {
  const std::string path = label_path(image);
  auto labels = read_labels(path);
  if (!labels && labels.error().code == base::ErrorCode::kNotFound) return std::vector<Label>{};
  if (!labels) return labels;
  for (const Label& label : *labels)
    if (const std::string mistake = label_mistake(label, classes_); !mistake.empty())
      return base::error(base::ErrorCode::kInvalidArgument, "{}:{}: {}", path, label.line, mistake);
  return labels;
}

std::vector<DetectionData::Problem> DetectionData::new_problems() {
  const std::lock_guard lock(mutex_);
  return std::exchange(problems_, {});
}

}  // namespace tessera::data
