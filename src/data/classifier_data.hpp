// Training samples for classifiers: a random picture, cropped, turned and coloured as upstream's
// load_data_augment() does. The class is the label that occurs in the picture's path.
#pragma once

#include <opencv2/core.hpp>

#include <cstdint>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "data/batch_loader.hpp"

namespace tessera::data {

// The index of the label in the path, as Darknet finds it (anywhere in the path); of several the longest. -1 when none
// occurs, or two equally long ones do.
int class_of_path(const std::string& path, const std::vector<std::string>& labels);

struct ClassifierAugmentation {
  float min_ratio = 1, max_ratio = 1;  // size of the picture's shorter side, relative to the input's width
  float angle = 0;                     // degrees
  float aspect = 1;
  float hue = 0, saturation = 1, exposure = 1;
  bool center = false;  // no random crop: the middle
};

class ClassifierData {
 public:
  // Every image has a class (class_of_path() is not -1).
  ClassifierData(std::vector<std::string> images, std::vector<std::string> labels, ClassifierAugmentation augmentation, std::uint64_t seed);

  base::Status make(std::uint64_t sample, const BatchShape& shape, float* input, float* truth);

  // One line per unreadable picture not asked for before; thread-safe.
  std::vector<std::string> new_problems();

 private:
  std::vector<std::string> images_, labels_;
  ClassifierAugmentation augmentation_;
  std::uint64_t seed_;
  std::mutex mutex_;
  std::set<std::string> unreadable_;
  std::vector<std::string> problems_;
};

// The largest square from the middle, scaled to the input: what a classifier is tested on.
void center_crop(const cv::Mat& picture, int width, int height, float* planes);

}  // namespace tessera::data
