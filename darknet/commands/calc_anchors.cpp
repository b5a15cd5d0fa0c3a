// darknet detector calc_anchors DATA -num_of_clusters N -width W -height H
#include <algorithm>
#include <limits>

#include "base/text.hpp"
#include "cfg/data_file.hpp"
#include "darknet/commands/commands.hpp"
#include "darknet/training/preflight.hpp"
#include "data/anchors.hpp"
#include "data/image_file.hpp"
#include "data/label_file.hpp"

namespace tessera::darknet {
namespace {

constexpr double kCell = 32;  // pixels per cell of YOLOv2's last map; its anchors count in cells

// Sizes of all labelled boxes in pixels of the network's input, where pictures are scaled to fit (letterboxed).
base::Result<std::vector<data::BoxSize>> read_box_sizes(const std::vector<std::string>& images, double width, double height) {
  std::vector<data::BoxSize> boxes;
  for (const std::string& image : images) {
    const auto labels = data::read_labels(data::label_path(image));
    if (!labels && labels.error().code == base::ErrorCode::kNotFound) continue;
    if (!labels) return tl::unexpected(labels.error());
    if (labels->empty()) continue;
    TESSERA_ASSIGN(const data::ImageSize size, data::read_image_size(image));
    const double scale = std::min(width / size.width, height / size.height);
    for (const data::Label& label : *labels) boxes.push_back({label.w * size.width * scale, label.h * size.height * scale});
  }
  return boxes;
}

// Of the .data file: classes=, or as many as there are names; a label of any other class is a mistake.
base::Result<int> class_count(const cfg::DataFile& data) {
  if (data.classes > 0) return data.classes;
  if (data.names.empty() && data.labels.empty()) return std::numeric_limits<short>::max();
  TESSERA_ASSIGN(const std::vector<std::string> names, cfg::read_names(data, 0));
  return static_cast<int>(names.size());
}

std::string anchor_list(const data::Anchors& anchors, double unit, int digits) {
  std::string text;
  for (const data::BoxSize& size : anchors.sizes)
    text += fmt::format("{}{:.{}f},{:.{}f}", text.empty() ? "" : ", ", size.width / unit, digits, size.height / unit, digits);
  return text;
}

}  // namespace

base::Result<int> run_calc_anchors(const Arguments& arguments) {
  const long width = arguments.integer("width", 416), height = arguments.integer("height", 416),
             count = arguments.integer("num_of_clusters", 5);
  if (width < 1 || height < 1)
    return base::error(base::ErrorCode::kInvalidArgument, "-width {} -height {}: both must be at least 1", width, height);
  TESSERA_ASSIGN(const cfg::DataFile data, cfg::read_data_file(arguments.operand(0)));
  TESSERA_ASSIGN(const std::vector<std::string> images, read_image_list(data, "train", data.train));
  TESSERA_ASSIGN(const int classes, class_count(data));
  TESSERA_TRY(preflight_list(data, "train", images, {classes}));
  TESSERA_ASSIGN(const std::vector<data::BoxSize> boxes, read_box_sizes(images, static_cast<double>(width), static_cast<double>(height)));
  TESSERA_ASSIGN(const data::Anchors anchors, data::find_anchors(boxes, static_cast<int>(std::clamp(count, -1L, 100000L)),
                                                                 static_cast<std::uint64_t>(arguments.integer("seed", 1))));
  fmt::print("{} boxes in {} images, input {}x{}\n", boxes.size(), images.size(), width, height);
  fmt::print("avg IoU = {:.2f} %\n", 100 * anchors.mean_iou);
  fmt::print("anchors = {}\n", anchor_list(anchors, 1, 1));
  fmt::print("for [region] layers (cells of {:.0f} pixels): anchors = {}\n", kCell, anchor_list(anchors, kCell, 4));
  TESSERA_TRY(base::write_file_atomically("anchors.txt", anchor_list(anchors, 1, 1) + "\n"));
  fmt::print("wrote anchors.txt\n");
  return 0;
}

}  // namespace tessera::darknet
