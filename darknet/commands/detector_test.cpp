// darknet detector test DATA CFG WEIGHTS [IMAGE], darknet detect CFG WEIGHTS [IMAGE]
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/text.hpp"
#include "cfg/data_file.hpp"
#include "darknet/commands/commands.hpp"
#include "darknet/commands/engines.hpp"
#include "darknet/commands/test_inputs.hpp"
#include "darknet/training/evaluate.hpp"
#include "darknet/upstream/image_drawing.hpp"
#include "data/image_file.hpp"
#include "data/label_file.hpp"

namespace tessera::darknet {
namespace {

constexpr const char* kDefaultData = "cfg/coco.data";  // upstream's `detect` takes its names from there

void print_objects(const std::string& path, double seconds, const cv::Mat& picture, const std::vector<observe::DetectedObject>& objects,
                   const std::vector<std::string>& names, bool boxes) {
  fmt::print("{}: Predicted in {:.6f} seconds.\n", path, seconds);
  for (const observe::DetectedObject& object : objects) {
    fmt::print("{}: {:.0f}%", names[static_cast<std::size_t>(object.class_id)], 100 * object.score);
    if (boxes)
      fmt::print("\t(left_x: {:4.0f}   top_y: {:4.0f}   width: {:4.0f}   height: {:4.0f})",
                 std::round((object.box.x - object.box.w / 2) * picture.cols), std::round((object.box.y - object.box.h / 2) * picture.rows),
                 std::round(object.box.w * picture.cols), std::round(object.box.h * picture.rows));
    fmt::print("\n");
  }
  std::fflush(stdout);
}

nlohmann::json to_json(int frame, const std::string& path, const std::vector<observe::DetectedObject>& objects,
                       const std::vector<std::string>& names) {
  nlohmann::json list = nlohmann::json::array();
  for (const observe::DetectedObject& object : objects)
    list.push_back({{"class_id", object.class_id},
                    {"name", names[static_cast<std::size_t>(object.class_id)]},
                    {"relative_coordinates",
                     {{"center_x", object.box.x}, {"center_y", object.box.y}, {"width", object.box.w}, {"height", object.box.h}}},
                    {"confidence", object.score}});
  return {{"frame_id", frame}, {"filename", path}, {"objects", list}};
}

base::Status save_labels(const std::string& image, const std::vector<observe::DetectedObject>& objects) {
  std::string text;
  for (const observe::DetectedObject& object : objects)
    text += fmt::format("{} {:.6f} {:.6f} {:.6f} {:.6f}\n", object.class_id, object.box.x, object.box.y, object.box.w, object.box.h);
  return base::write_file_atomically(data::label_path(image), text);
}

base::Result<int> test_images(const Arguments& arguments, const LoadedNetwork& loaded, const std::vector<std::string>& names,
                              const std::string& image) {
  network* net = loaded.net.get();
  DetectionSettings settings;
  settings.score_threshold = static_cast<float>(arguments.real("thresh", 0.25));
  settings.hierarchy_threshold = static_cast<float>(arguments.real("hier", settings.hierarchy_threshold));
  settings.nms_threshold = static_cast<float>(arguments.real("nms", settings.nms_threshold));
  const std::string out = arguments.text("out");
  const bool json_out = std::filesystem::path(out).extension() == ".json";
  const std::string picture_path = out.empty() || json_out                          ? "predictions.jpg"
                                   : std::filesystem::path(out).extension().empty() ? out + ".jpg"
                                                                                    : out;
  const bool show = !arguments.has("dont_show") && display_available();

  TESSERA_ASSIGN(const std::vector<std::string> images, images_to_test(image, arguments));
  nlohmann::json frames = nlohmann::json::array();
  int failures = 0;
  for (const std::string& path : images) {
    std::string damage;
    auto picture = data::read_image(path, &damage);
    if (!damage.empty()) fmt::print(stderr, "warning: {}\n", damage);
    if (!picture) {
      if (images.size() == 1) return tl::unexpected(picture.error());
      fmt::print(stderr, "darknet: {}; it is skipped\n", picture.error().message);
      ++failures;
      continue;
    }
    double seconds = 0;
    const std::vector<observe::DetectedObject> objects = detect_objects(net, *picture, settings, &seconds);
    print_objects(path, seconds, *picture, objects, names, arguments.has("ext_output"));
    frames.push_back(to_json(static_cast<int>(frames.size()) + 1, path, objects, names));
    if (arguments.has("save_labels")) TESSERA_TRY(save_labels(path, objects));
    draw_objects(*picture, objects, names);
    TESSERA_TRY(data::write_image(picture_path, *picture));
    if (show && show_picture("predictions", *picture, 0)) break;
  }
  if (json_out) TESSERA_TRY(base::write_file_atomically(out, frames.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n"));
  return failures > 0 ? kExitFailure : 0;
}

std::vector<std::string> numbered_names(int classes) {
  std::vector<std::string> names;
  for (int i = 0; i < classes; ++i) names.push_back(fmt::format("class {}", i));
  return names;
}

}  // namespace

base::Result<int> run_detector_test(const Arguments& arguments) {
  TESSERA_ASSIGN(const DetectorUnderTest test, load_detector_for_test(arguments));
  return test_images(arguments, test.loaded, test.names, arguments.operand(3));
}

base::Result<int> run_detect(const Arguments& arguments) {
  TESSERA_ASSIGN(const LoadedNetwork loaded, load_network_for_test(arguments.operand(0), arguments.operand(1), arguments));
  TESSERA_TRY(require_detector(loaded));
  std::vector<std::string> names = numbered_names(loaded.cfg.classes);
  const std::string data_path = arguments.text("data", std::filesystem::exists(kDefaultData) ? kDefaultData : "");
  if (!data_path.empty()) {
    TESSERA_ASSIGN(const cfg::DataFile data_file, cfg::read_data_file(data_path));
    auto listed = cfg::read_names(data_file, loaded.cfg.classes);
    if (!listed && arguments.has("data")) return tl::unexpected(listed.error());
    if (listed) names = std::move(*listed);
  }
  return test_images(arguments, loaded, names, arguments.operand(2));
}

}  // namespace tessera::darknet
