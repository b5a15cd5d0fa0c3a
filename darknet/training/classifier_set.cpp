#include "darknet/training/classifier_set.hpp"

#include "base/text.hpp"

namespace tessera::darknet {

base::Result<std::vector<std::string>> read_labels_list(const cfg::DataFile& data, int outputs) {
  if (!data.tree.empty())
    return base::error(base::ErrorCode::kInvalidArgument, "{}: class trees are not supported; remove tree=", data.where("tree"));
  const std::string key = data.labels.empty() ? "names" : "labels";
  const std::string path = data.labels.empty() ? data.names : data.labels;
  if (path.empty())
    return base::error(base::ErrorCode::kInvalidArgument,
                       "{}: has no labels=; add labels = FILE with one label per line, each a part of its pictures' paths", data.path);
  TESSERA_ASSIGN(std::vector<std::string> labels, base::read_list(path, "list of labels"));
  if (data.classes && static_cast<std::size_t>(data.classes) != labels.size())
    return base::error(base::ErrorCode::kInvalidArgument, "{}: {} has {} labels, but classes={}; make them equal", data.where(key), path,
                       labels.size(), data.classes);
  if (outputs > 0 && static_cast<std::size_t>(outputs) != labels.size())
    return base::error(base::ErrorCode::kInvalidArgument, "{}: {} has {} labels, but the network has {} outputs; make them equal",
                       data.where(key), path, labels.size(), outputs);
  return labels;
}

base::Result<std::unique_ptr<data::ImageSet>> open_set(const cfg::DataFile& data, const std::string& key,
                                                       const std::vector<std::string>& labels) {
  const std::string& spec = key == "train" ? data.train : data.valid;
  if (spec.empty())
    return base::error(base::ErrorCode::kInvalidArgument, "{}: has no {}=; add {} = FILE with one image path per line, or a set's files",
                       data.path, key, key);
  auto images = data::open_image_set(spec, labels);
  if (!images) return base::error(images.error().code, "{}: {}", data.where(key), images.error().message);
  if ((*images)->size() == 0) return base::error(base::ErrorCode::kInvalidArgument, "{}: {} lists no images", data.where(key), spec);
  return images;
}

}  // namespace tessera::darknet
