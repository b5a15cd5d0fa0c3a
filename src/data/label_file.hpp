// Labels of detection images: where they are and what they say.
#pragma once

#include <string>
#include <vector>

#include "base/result.hpp"

namespace tessera::data {

// One object: class and box (centre and size) relative to the image.
struct Label {
  int class_id = 0;
  float x = 0, y = 0, w = 0, h = 0;
  int line = 0;
};

// The label file of an image: the last folder named `images`, `JPEGImages` or `raw` in its path becomes
// `labels` (whole names only), the extension becomes .txt. Without such a folder it lies beside the image.
std::string label_path(const std::string& image_path);

// Every line is `class x y width height`; the first mistake is an error with `file:line`.
[[nodiscard]] base::Result<std::vector<Label>> read_labels(const std::string& path);

// What is wrong with one label for a network of `classes` classes, or "".
std::string label_mistake(const Label& label, int classes);

}  // namespace tessera::data
