// Pictures with one class each, wherever they lie: what a classifier's `train =` and `valid =` name.
#pragma once

#include <opencv2/core.hpp>

#include <memory>
#include <string>
#include <vector>

#include "base/result.hpp"

namespace tessera::data {

// The index of the label in the path, as Darknet finds it (anywhere in the path); of several the longest. -1 when none
// occurs, or two equally long ones do.
int class_of_path(const std::string& path, const std::vector<std::string>& labels);

// Safe to use from several threads at once.
class ImageSet {
 public:
  virtual ~ImageSet() = default;

  std::size_t size() const { return classes_.size(); }
  int class_of(std::size_t index) const { return classes_[index]; }
  const std::vector<int>& classes() const { return classes_; }

  // 8-bit BGR; grey pictures have three equal channels.
  [[nodiscard]] virtual base::Result<cv::Mat> picture(std::size_t index) const = 0;
  virtual std::string name(std::size_t index) const = 0;  // for messages
  // Writes the set of these pictures, files named `prefix`…; what `train =` has to say to name it.
  [[nodiscard]] virtual base::Result<std::string> write_part(const std::vector<std::size_t>& indices, const std::string& prefix) const = 0;

 protected:
  std::vector<int> classes_;
};

// The forms of `spec`:
//   FILE                      one picture's path a line; the class is the label that occurs in it
//   folder:DIRECTORY          a folder of pictures for each label, named after it (CINIC-10)
//   idx:IMAGES:LABELS         IDX files of bytes, images × rows × columns and labels (MNIST, Fashion-MNIST)
//   cifar10:FILE,FILE,…       binary batches: a label, 32×32 red, green, blue
//   cifar100:FILE,…           the same with a coarse label before it; cifar100-coarse:FILE,… takes that one
// All but the first are checked from end to end; every class is below labels.size().
[[nodiscard]] base::Result<std::unique_ptr<ImageSet>> open_image_set(const std::string& spec, const std::vector<std::string>& labels);

}  // namespace tessera::data
