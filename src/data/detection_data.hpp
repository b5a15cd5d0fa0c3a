// Training samples for detectors: a random picture, augmented as upstream's load_data_detection() does, with its
// boxes moved along.
#pragma once

#include <cstdint>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "data/batch_loader.hpp"
#include "data/label_file.hpp"

namespace tessera::data {

struct DetectionAugmentation {
  float jitter = 0;                             // change of the aspect ratio, relative
  float hue = 0, saturation = 1, exposure = 1;  // as in the cfg
  bool stretch = false;                         // a part of the picture fills the input, whatever its shape (AlexeyAB's way)
  bool crop = false;                            // as AlexeyAB, keeping the picture's shape (its letter_box)
  bool flip = true;
  float resize = 1;  // with stretch or crop: change of size
};

// How one sample is made from its picture; drawn from the sample's generator.
struct Placement {
  float width = 0, height = 0;  // size of the scaled picture on the network's input
  float left = 0, top = 0;      // its corner
  bool flip = false;
  float hue = 0, saturation = 1, exposure = 1;
};

class SampleRng;
Placement draw_placement(SampleRng& rng, const DetectionAugmentation& settings, int image_width, int image_height, const BatchShape& shape);

// Labels where the placement puts them: clipped to the input; boxes of which less than 0.001 is left are dropped.
std::vector<Label> place_labels(std::vector<Label> labels, const Placement& placement, const BatchShape& shape);

// Scales colours in hue, saturation and value; `planes` are R, G, B of `pixels` floats each, kept in 0..1.
void distort_colours(float* planes, std::size_t pixels, float hue, float saturation, float value);

// A source of samples for BatchLoader. Sampling is random with replacement, like Darknet's, and depends on the
// seed and the sample's number only. An unreadable picture or label file is replaced by another one and reported
// once; a picture without a label file is one without objects.
class DetectionData {
 public:
  DetectionData(std::vector<std::string> images, int classes, DetectionAugmentation augmentation, std::uint64_t seed);

  base::Status make(std::uint64_t sample, const BatchShape& shape, float* input, float* truth);

  struct Problem {
    std::string path;     // the picture or label file
    std::string message;  // why it was replaced
  };
  // Those not asked for before; thread-safe.
  std::vector<Problem> new_problems();

 private:
  void report(const std::string& path, const std::string& message);
  base::Result<std::vector<Label>> usable_labels(const std::string& image) const;

  std::vector<std::string> images_;
  int classes_;
  DetectionAugmentation augmentation_;
  std::uint64_t seed_;
  std::mutex mutex_;
  std::set<std::string> reported_;
  std::vector<Problem> problems_;
};

}  // namespace tessera::data
