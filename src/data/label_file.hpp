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

// Where the labels of an image may lie. Upstream: the last folder named `images`, `JPEGImages` or `raw` in its path becomes
// `labels` (whole names only), the extension becomes .txt. AlexeyAB's manual: beside the image, whatever its folder is called.
struct LabelPlaces {
  std::string usual, beside;
};
LabelPlaces label_places(const std::string& image_path);

// The one of them that is there, the usual one first; when neither is, the one whose folder is there. All who read or write labels
// ask here.
std::string label_path(const std::string& image_path);

// Every line is `class x y width height`; the first mistake is an error with `file:line`.
[[nodiscard]] base::Result<std::vector<Label>> read_labels(const std::string& path);

// What is wrong with one label for a network of `classes` classes, or "".
std::string label_mistake(const Label& label, int classes);

}  // namespace tessera::data
