#include "data/image_set.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "base/text.hpp"
#include "data/image_file.hpp"
#include "data/packed_images.hpp"

namespace tessera::data {
namespace {

using base::ErrorCode;

// A file for each picture.
class PictureFiles : public ImageSet {
 public:
  PictureFiles(std::vector<std::string> paths, std::vector<int> classes) : paths_(std::move(paths)) { classes_ = std::move(classes); }

  base::Result<cv::Mat> picture(std::size_t index) const override { return read_image(paths_[index]); }
  std::string name(std::size_t index) const override { return paths_[index]; }
  base::Result<std::string> write_part(const std::vector<std::size_t>& indices, const std::string& prefix) const override {
    std::string text;
    for (const std::size_t i : indices) text += paths_[i] + "\n";
    TESSERA_TRY(base::write_file_atomically(prefix + ".list", text));
    return prefix + ".list";
  }

 private:
  std::vector<std::string> paths_;
};

base::Result<std::unique_ptr<ImageSet>> open_list(const std::string& path, const std::vector<std::string>& labels) {
  TESSERA_ASSIGN(std::vector<std::string> images, base::read_list(path, "list of images"));
  std::vector<int> classes;
  for (const std::string& image : images) classes.push_back(class_of_path(image, labels));
  if (const auto without = std::count(classes.begin(), classes.end(), -1)) {
    const auto first = std::find(classes.begin(), classes.end(), -1) - classes.begin();
    return base::error(ErrorCode::kInvalidArgument,
                       "no label, or more than one, occurs in the path {} ({} of {} images); name folders or files after the labels",
                       images[static_cast<std::size_t>(first)], without, images.size());
  }
  return std::make_unique<PictureFiles>(std::move(images), std::move(classes));
}

// In the order of labels and names, whatever order the file system has.
base::Result<std::unique_ptr<ImageSet>> open_folder(const std::string& folder, const std::vector<std::string>& labels) {
  std::vector<std::string> paths;
  std::vector<int> classes;
  for (std::size_t label = 0; label < labels.size(); ++label) {
    const std::filesystem::path of_class = std::filesystem::path(folder) / labels[label];
    std::error_code failure;
    std::filesystem::directory_iterator entries(of_class, failure);
    if (failure)
      return base::error(ErrorCode::kNotFound, "{}: {}; there must be a folder of pictures for every label", of_class.string(),
                         failure.message());
    std::vector<std::string> found;
    for (const auto& entry : entries) {
      const std::string extension = entry.path().extension().string();
      if (extension == ".png" || extension == ".jpg" || extension == ".jpeg") found.push_back(entry.path().string());
    }
    if (found.empty()) return base::error(ErrorCode::kInvalidArgument, "{}: holds no .png, .jpg or .jpeg", of_class.string());
    std::sort(found.begin(), found.end());
    paths.insert(paths.end(), found.begin(), found.end());
    classes.insert(classes.end(), found.size(), static_cast<int>(label));
  }
  return std::make_unique<PictureFiles>(std::move(paths), std::move(classes));
}

}  // namespace

int class_of_path(const std::string& path, const std::vector<std::string>& labels) {
  int best = -1;
  bool tied = false;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    if (path.find(labels[i]) == std::string::npos) continue;
    const std::size_t length = best < 0 ? 0 : labels[static_cast<std::size_t>(best)].size();
    tied = best >= 0 && labels[i].size() == length;
    if (labels[i].size() > length) best = static_cast<int>(i);
  }
  return tied ? -1 : best;
}

base::Result<std::unique_ptr<ImageSet>> open_image_set(const std::string& spec, const std::vector<std::string>& labels) {
  const std::size_t colon = spec.find(':');
  const std::string kind = colon == std::string::npos ? "" : spec.substr(0, colon),
                    rest = colon == std::string::npos ? "" : spec.substr(colon + 1);
  if (kind == "folder") return open_folder(rest, labels);
  if (kind == "idx" || kind.starts_with("cifar")) return open_packed_images(kind, rest, labels.size());
  return open_list(spec, labels);
}

}  // namespace tessera::data
