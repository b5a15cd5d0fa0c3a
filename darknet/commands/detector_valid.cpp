// darknet detector valid, map and recall: DATA CFG WEIGHTS
#include <algorithm>
#include <memory>

#include "base/clock.hpp"
#include "base/text.hpp"
#include "darknet/commands/commands.hpp"
#include "darknet/commands/test_inputs.hpp"
#include "darknet/training/evaluate.hpp"
#include "darknet/training/preflight.hpp"
#include "observe/result_files.hpp"

namespace tessera::darknet {
namespace {

base::Result<observe::PrecisionSettings> precision_settings(const Arguments& arguments, int classes) {
  observe::PrecisionSettings settings;
  settings.classes = classes;
  settings.iou_threshold = arguments.real("iou_thresh", settings.iou_threshold);
  settings.points = static_cast<int>(arguments.integer("points", settings.points));
  settings.score_threshold = arguments.real("thresh", settings.score_threshold);
  if (!(settings.iou_threshold > 0 && settings.iou_threshold < 1))
    return base::error(base::ErrorCode::kInvalidArgument, "-iou_thresh {}: must be between 0 and 1", settings.iou_threshold);
  if (settings.points != 0 && settings.points != 11 && settings.points != 101)
    return base::error(base::ErrorCode::kInvalidArgument, "-points {}: must be 0 (area under the curve), 11 or 101", settings.points);
  return settings;
}

void print_precision(const observe::Precision& result, const observe::PrecisionSettings& settings, const std::vector<std::string>& names) {
  for (std::size_t c = 0; c < result.classes.size(); ++c) {
    const observe::ClassPrecision& one = result.classes[c];
    if (one.objects == 0)
      fmt::print("class_id = {}, name = {}, no objects in the list\n", c, names[c]);
    else
      fmt::print("class_id = {}, name = {}, ap = {:.2f}%\t(TP = {}, FP = {}, objects = {})\n", c, names[c], 100 * one.average_precision,
                 one.true_positives, one.false_positives, one.objects);
  }
  fmt::print("\nfor conf_thresh = {:.2f}, precision = {:.2f}, recall = {:.2f}, F1-score = {:.2f}\n", settings.score_threshold,
             result.precision(), result.recall(), result.f1());
  fmt::print("for conf_thresh = {:.2f}, TP = {}, FP = {}, FN = {}, average IoU = {:.2f} %\n\n", settings.score_threshold,
             result.true_positives, result.false_positives, result.false_negatives, 100 * result.mean_iou);
  fmt::print("IoU threshold = {:.0f} %, {}\n", 100 * settings.iou_threshold,
             settings.points ? fmt::format("used {} recall points", settings.points) : "used area under the curve for each class");
  fmt::print("mean average precision (mAP@{:.2f}) = {:.6f}, or {:.2f} %\n", settings.iou_threshold, result.mean_average_precision,
             100 * result.mean_average_precision);
}

}  // namespace

base::Result<int> run_detector_map(const Arguments& arguments) {
  TESSERA_ASSIGN(const DetectorUnderTest test, load_detector_for_test(arguments));
  TESSERA_ASSIGN(const std::vector<std::string> images, read_image_list(test.data_file, "valid", test.data_file.valid));
  TESSERA_ASSIGN(const observe::PrecisionSettings settings, precision_settings(arguments, test.loaded.cfg.classes));
  TESSERA_TRY(preflight_list(test.data_file, "valid", images, {test.loaded.cfg.classes}));
  DetectionSettings detection;
  detection.nms_threshold = static_cast<float>(arguments.real("nms", detection.nms_threshold));
  const base::TimePoint start = base::Clock::now();
  TESSERA_ASSIGN(const observe::Precision result, evaluate_detector(test.loaded.net.get(), images, settings, detection));
  fmt::print("{} images\n", images.size());
  print_precision(result, settings, test.names);
  fmt::print("Total Detection Time: {:.1f} Seconds\n", base::seconds_between(start, base::Clock::now()));
  return 0;
}

base::Result<int> run_detector_recall(const Arguments& arguments) {
  TESSERA_ASSIGN(const DetectorUnderTest test, load_detector_for_test(arguments));
  TESSERA_ASSIGN(const std::vector<std::string> images, read_image_list(test.data_file, "valid", test.data_file.valid));
  TESSERA_TRY(preflight_list(test.data_file, "valid", images, {test.loaded.cfg.classes}));
  TESSERA_ASSIGN(const std::vector<observe::TrueObject> objects, read_objects(images, test.loaded.cfg.classes));
  const double iou_threshold = arguments.real("iou_thresh", 0.5);
  DetectionSettings settings;
  settings.score_threshold = static_cast<float>(arguments.real("thresh", 0.001));  // upstream's for recall
  settings.nms_threshold = static_cast<float>(arguments.real("nms", 0.4));
  network* net = test.loaded.net.get();

  std::size_t correct = 0, total = 0, proposals = 0;
  double iou_sum = 0;
  TESSERA_TRY(for_each_image(net, images, [&](PreparedImage& image) -> base::Status {
    const std::vector<observe::DetectedObject> found = detect_objects(net, image.planes.data(), image.width, image.height, settings);
    proposals += found.size();
    for (const observe::TrueObject& object : objects) {
      if (object.image != image.index) continue;
      double best = 0;  // of any class: recall asks whether the place is found
      for (const observe::DetectedObject& detection : found)
        best = std::max(best, observe::intersection_over_union(object.box, detection.box));
      ++total;
      iou_sum += best;
      correct += best > iou_threshold;
    }
    const double share = total ? 1.0 / static_cast<double>(total) : 0;
    fmt::print("{:5} {:5} {:5}\tRPs/Img: {:.2f}\tIOU: {:.2f}%\tRecall:{:.2f}%\n", image.index, correct, total,
               static_cast<double>(proposals) / (image.index + 1), 100 * iou_sum * share, 100 * static_cast<double>(correct) * share);
    return {};
  }));
  return 0;
}

base::Result<int> run_detector_valid(const Arguments& arguments) {
  TESSERA_ASSIGN(const DetectorUnderTest test, load_detector_for_test(arguments));
  const cfg::DataFile& data = test.data_file;
  if (!data.map.empty())
    return base::error(base::ErrorCode::kInvalidArgument, "{}: map= is for class trees; run `darknet detector valid2`, which is upstream's",
                       data.where("map"));
  TESSERA_ASSIGN(const std::vector<std::string> images, read_image_list(data, "valid", data.valid));
  TESSERA_TRY(preflight_list(data, "valid", images, {.labels = false}));
  TESSERA_ASSIGN(const std::unique_ptr<observe::ResultWriter> writer, observe::make_result_writer(data, test.names, arguments.text("out")));
  DetectionSettings settings;
  settings.score_threshold = static_cast<float>(arguments.real("thresh", settings.score_threshold));
  settings.hierarchy_threshold = static_cast<float>(arguments.real("hier", settings.hierarchy_threshold));
  settings.nms_threshold = static_cast<float>(arguments.real("nms", settings.nms_threshold));
  network* net = test.loaded.net.get();
  const base::TimePoint start = base::Clock::now();
  TESSERA_TRY(for_each_image(net, images, [&](PreparedImage& image) -> base::Status {
    writer->add(image.index, images[static_cast<std::size_t>(image.index)], {image.width, image.height},
                detect_objects(net, image.planes.data(), image.width, image.height, settings));
    return {};
  }));
  TESSERA_TRY(writer->finish());
  for (const std::string& path : writer->paths()) fmt::print("wrote {}\n", path);
  fmt::print("Total Detection Time: {:.1f} Seconds\n", base::seconds_between(start, base::Clock::now()));
  return 0;
}

}  // namespace tessera::darknet
