#include "data/label_file.hpp"

#include <climits>
#include <filesystem>
#include <sstream>

#include "base/text.hpp"

namespace tessera::data {
namespace {

// Label tools round: a box may end this far outside its image.
constexpr float kRounding = 0.001f;

}  // namespace

LabelPlaces label_places(const std::string& image_path) {
  std::vector<std::string> parts = base::split(image_path, '/');
  LabelPlaces places;
  places.beside = std::filesystem::path(image_path).replace_extension(".txt").string();
  for (std::size_t i = parts.size() - 1; i-- > 0;) {
    if (parts[i] != "images" && parts[i] != "JPEGImages" && parts[i] != "raw") continue;
    parts[i] = "labels";
    break;
  }
  std::string path;
  for (std::size_t i = 0; i < parts.size(); ++i) path += (i ? "/" : "") + parts[i];
  places.usual = std::filesystem::path(path).replace_extension(".txt").string();
  return places;
}

std::string label_path(const std::string& image_path) {
  const LabelPlaces places = label_places(image_path);
  std::error_code none;
  if (places.usual == places.beside || std::filesystem::exists(places.usual, none)) return places.usual;
  if (std::filesystem::exists(places.beside, none)) return places.beside;
  return std::filesystem::is_directory(std::filesystem::path(places.usual).parent_path(), none) ? places.usual : places.beside;
}

base::Result<std::vector<Label>> read_labels(const std::string& path) {
  TESSERA_ASSIGN(const std::vector<std::string> lines, base::read_lines(path, "label file"));
  std::vector<Label> labels;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (lines[i].empty()) continue;
    std::istringstream words(lines[i]);
    std::vector<std::string> parts;
    for (std::string word; words >> word;) parts.push_back(word);
    const int line = static_cast<int>(i) + 1;
    const long id = parts.empty() ? LONG_MAX : base::to_integer(parts[0]).value_or(LONG_MAX);
    bool good = parts.size() == 5 && id >= INT_MIN && id <= INT_MAX && id != LONG_MAX;
    float values[4] = {};
    for (std::size_t k = 0; good && k < 4; ++k) {
      const auto value = base::to_real(parts[k + 1]);
      good = value.has_value();
      if (good) values[k] = static_cast<float>(*value);
    }
    if (!good)
      return base::error(base::ErrorCode::kInvalidArgument,
                         "{}:{}: '{}' is no label; write `class x y width height` with numbers from 0 to 1", path, line,
                         base::quoted(lines[i]));
    labels.push_back({static_cast<int>(id), values[0], values[1], values[2], values[3], line});
  }
  return labels;
}

std::string label_mistake(const Label& label, int classes) {
  if (label.class_id < 0 || label.class_id >= classes)
    return fmt::format("class {} is out of range; {} classes are numbered 0 to {}", label.class_id, classes, classes - 1);
  const auto inside = [](float value) { return value >= -kRounding && value <= 1 + kRounding; };
  if (!inside(label.x) || !inside(label.y))
    return fmt::format("the box's centre ({:g}, {:g}) is outside the image; centre and size are relative, 0 to 1", label.x, label.y);
  if (!(label.w > 0) || !(label.h > 0) || !inside(label.w) || !inside(label.h))
    return fmt::format("the box's size {:g} x {:g} is not between 0 and 1; centre and size are relative to the image", label.w, label.h);
  return "";
}

}  // namespace tessera::data
