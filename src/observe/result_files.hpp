// The result files of `detector valid`, in the formats that the VOC, COCO and ImageNet tools read.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "cfg/data_file.hpp"
#include "data/image_file.hpp"
#include "observe/average_precision.hpp"

namespace tessera::observe {

// Collects detections (boxes relative to their image) and writes the files at the end, each in one step.
class ResultWriter {
 public:
  virtual ~ResultWriter() = default;
  virtual void add(int index, const std::string& image, data::ImageSize size, std::span<const DetectedObject> objects) = 0;
  [[nodiscard]] base::Status finish() const;
  std::vector<std::string> paths() const;

 protected:
  struct File {
    std::string path, text;
  };
  std::vector<File> files_;
};

// By the .data file's eval=: voc (default; one file per class), coco (one JSON) or imagenet (one text file), in the
// folder results=, which is made. `name` replaces the beginning of the files' names.
[[nodiscard]] base::Result<std::unique_ptr<ResultWriter>> make_result_writer(const cfg::DataFile& data,
                                                                             const std::vector<std::string>& names,
                                                                             const std::string& name);

// The number after the last '_' (or '/') of an image's name: COCO's image id.
long coco_image_id(const std::string& image);

// COCO numbers its 80 classes with gaps, 1 to 90.
int coco_category_id(int class_id);

}  // namespace tessera::observe
