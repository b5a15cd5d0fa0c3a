// Training samples for classifiers: a random picture, cropped, turned and coloured as upstream's load_data_augment() does;
// or, with PadCrop, every picture once a round, shifted, flipped and cut.
#pragma once

#include <opencv2/core.hpp>

#include <cstdint>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "data/batch_loader.hpp"
#include "data/image_set.hpp"
#include "data/pad_crop.hpp"
#include "data/sample_rng.hpp"

namespace tessera::data {

struct ClassifierAugmentation {
  float min_ratio = 1, max_ratio = 1;  // size of the picture's shorter side, relative to the input's width
  float angle = 0;                     // degrees
  float aspect = 1;
  float hue = 0, saturation = 1, exposure = 1;
  bool center = false;  // no random crop: the middle
};

class ClassifierData {
 public:
  // The set outlives it. Inputs have 3 channels, or 1: grey.
  ClassifierData(const ImageSet& images, ClassifierAugmentation augmentation, std::optional<PadCrop> pad_crop, std::uint64_t seed);

  base::Status make(std::uint64_t sample, const BatchShape& shape, float* input, float* truth);

  // One line per unreadable picture not asked for before; thread-safe.
  std::vector<std::string> new_problems();

 private:
  void augment(const cv::Mat& picture, const BatchShape& shape, SampleRng& rng, float* input) const;

  const ImageSet& images_;
  const ClassifierAugmentation augmentation_;
  const std::optional<PadCrop> pad_crop_;
  const std::uint64_t seed_;
  std::mutex mutex_;
  std::set<std::size_t> unreadable_;
  std::vector<std::string> problems_;
};

// The largest square from the middle, scaled to the input (`channels` 1 or 3): what a classifier is tested on.
void center_crop(const cv::Mat& picture, int channels, int width, int height, float* planes);

// All three channels grey.
cv::Mat grey_picture(const cv::Mat& picture);

}  // namespace tessera::data
