#include "observe/result_files.hpp"

#include <algorithm>
#include <array>
#include <filesystem>

#include "base/text.hpp"

namespace tessera::observe {
namespace {

struct Corners {
  double left, top, right, bottom;
};

// In pixels, from `first` (1 for VOC) and clipped to the image.
Corners corners(const Rect& box, data::ImageSize size, double first) {
  const auto at = [&](double relative, int side) { return std::clamp(relative * side + first, first, static_cast<double>(side)); };
  return {at(static_cast<double>(box.x) - box.w / 2, size.width), at(static_cast<double>(box.y) - box.h / 2, size.height),
          at(static_cast<double>(box.x) + box.w / 2, size.width), at(static_cast<double>(box.y) + box.h / 2, size.height)};
}

class VocWriter : public ResultWriter {
 public:
  VocWriter(const std::string& folder, const std::string& name, const std::vector<std::string>& classes) {
    for (const std::string& one : classes) files_.push_back({fmt::format("{}/{}{}.txt", folder, name, one), ""});
  }
  void add(int, const std::string& image, data::ImageSize size, std::span<const DetectedObject> objects) override {
    for (const DetectedObject& object : objects) {
      const Corners c = corners(object.box, size, 1);
      files_[static_cast<std::size_t>(object.class_id)].text +=
          fmt::format("{} {:.6f} {:.6f} {:.6f} {:.6f} {:.6f}\n", base::base_name(image), object.score, c.left, c.top, c.right, c.bottom);
    }
  }
};

class CocoWriter : public ResultWriter {
 public:
  explicit CocoWriter(const std::string& path) { files_.push_back({path, "[\n]\n"}); }
  void add(int, const std::string& image, data::ImageSize size, std::span<const DetectedObject> objects) override {
    std::string& text = files_[0].text;
    for (const DetectedObject& object : objects) {
      const Corners c = corners(object.box, size, 0);
      text.resize(text.size() - 3);  // the end; put back below
      text += fmt::format(
          "{}\n{{\"image_id\":{}, \"category_id\":{}, \"bbox\":[{:.6f}, {:.6f}, {:.6f}, {:.6f}], "
          "\"score\":{:.6f}}}\n]\n",
          text.size() > 1 ? "," : "", coco_image_id(image), coco_category_id(object.class_id), c.left, c.top, c.right - c.left,
          c.bottom - c.top, object.score);
    }
  }
};

class ImagenetWriter : public ResultWriter {
 public:
  explicit ImagenetWriter(const std::string& path) { files_.push_back({path, ""}); }
  void add(int index, const std::string&, data::ImageSize size, std::span<const DetectedObject> objects) override {
    for (const DetectedObject& object : objects) {
      const Corners c = corners(object.box, size, 0);
      files_[0].text += fmt::format("{} {} {:.6f} {:.6f} {:.6f} {:.6f} {:.6f}\n", index + 1, object.class_id + 1, object.score, c.left,
                                    c.top, c.right, c.bottom);
    }
  }
};

}  // namespace

base::Status ResultWriter::finish() const {
  for (const File& file : files_) TESSERA_TRY(base::write_file_atomically(file.path, file.text));
  return {};
}

std::vector<std::string> ResultWriter::paths() const {
  std::vector<std::string> paths;
  for (const File& file : files_) paths.push_back(file.path);
  return paths;
}

base::Result<std::unique_ptr<ResultWriter>> make_result_writer(const cfg::DataFile& data, const std::vector<std::string>& names,
                                                               const std::string& name) {
  std::error_code failure;
  std::filesystem::create_directories(data.results, failure);
  if (failure)
    return base::error(base::ErrorCode::kIo, "{}: the results folder {} cannot be made: {}", data.where("results"), data.results,
                       failure.message());
  const auto path = [&](const char* usual, const char* extension) {
    return fmt::format("{}/{}{}", data.results, name.empty() ? usual : name, extension);
  };
  if (data.eval == "voc") return std::make_unique<VocWriter>(data.results, name.empty() ? "comp4_det_test_" : name, names);
  if (data.eval == "imagenet") return std::make_unique<ImagenetWriter>(path("imagenet-detection", ".txt"));
  if (data.eval != "coco")
    return base::error(base::ErrorCode::kInvalidArgument, "{}: eval={} is unknown; it must be voc, coco or imagenet", data.where("eval"),
                       data.eval);
  if (names.size() > 80)
    return base::error(base::ErrorCode::kInvalidArgument, "{}: eval=coco has 80 classes, not {}", data.where("eval"), names.size());
  return std::make_unique<CocoWriter>(path("coco_results", ".json"));
}

long coco_image_id(const std::string& image) {
  const std::string stem = base::base_name(image);
  const std::size_t underscore = stem.rfind('_');
  return base::to_integer(underscore == std::string::npos ? stem : stem.substr(underscore + 1)).value_or(0);
}

int coco_category_id(int class_id) {
  // The ids that COCO skips, in rising order.
  constexpr std::array kGaps = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83};
  int id = class_id + 1;
  for (const int gap : kGaps)
    if (id >= gap) ++id;
  return id;
}

}  // namespace tessera::observe
