#include "darknet/training/evaluate.hpp"

#include <algorithm>
#include <ctime>
#include <future>
#include <thread>

#include <darknet.h>
#include "base/clock.hpp"
#include "darknet/upstream/dialect.hpp"
#include "darknet/upstream/own_layer.hpp"
#include "data/image_file.hpp"
#include "data/label_file.hpp"

namespace tessera::darknet {
namespace {

// Restores the batch a network had, also when an error returns early.
class BatchOfOne {
 public:
  explicit BatchOfOne(network* net) : net_(net), before_(net->batch) { set_batch_network(net_, 1); }
  ~BatchOfOne() { set_batch_network(net_, before_); }
  BatchOfOne(const BatchOfOne&) = delete;
  BatchOfOne& operator=(const BatchOfOne&) = delete;

 private:
  network* net_;
  int before_;
};

// The picture on the network's input.
void fit_picture(const cv::Mat& picture, bool stretched, int width, int height, float* planes) {
  stretched ? data::stretch(picture, width, height, planes) : data::letterbox(picture, width, height, planes);
}

base::Result<PreparedImage> prepare(int index, const std::string& path, bool stretched, int width, int height) {
  std::string damage;
  TESSERA_ASSIGN(const cv::Mat picture, data::read_image(path, &damage));
  if (!damage.empty()) fmt::print(stderr, "warning: {}; it counts all the same\n", damage);
  PreparedImage prepared{index, picture.cols, picture.rows, std::vector<float>(static_cast<std::size_t>(3) * width * height)};
  fit_picture(picture, stretched, width, height, prepared.planes.data());
  return prepared;
}

}  // namespace

const layer* detection_head(const network* net) {
  for (int i = net->n; i-- > 0;) {
    const layer& l = net->layers[i];
    if (l.type == YOLO || l.type == REGION || l.type == DETECTION) return &l;
  }
  return nullptr;
}

std::vector<observe::DetectedObject> detect_objects(network* net, float* planes, int image_width, int image_height,
                                                    const DetectionSettings& settings, double* seconds) {
  const base::TimePoint start = base::Clock::now();
  network_predict(net, planes);
  if (seconds) *seconds = base::seconds_between(start, base::Clock::now());
  if (settings_of(*net).stretch) image_width = net->w, image_height = net->h;  // nothing beside the picture to take off
  int count = 0;
  detection* found =
      get_network_boxes(net, image_width, image_height, settings.score_threshold, settings.hierarchy_threshold, nullptr, 1, &count);
  const int classes = detection_head(net)->classes;
  if (settings.nms_threshold > 0) suppress(*net, found, count, classes, settings.nms_threshold);
  std::vector<observe::DetectedObject> objects;
  for (int i = 0; i < count; ++i)
    for (int c = 0; found[i].objectness > 0 && c < classes; ++c)
      if (found[i].prob[c] > settings.score_threshold)
        objects.push_back({0, c, found[i].prob[c], {found[i].bbox.x, found[i].bbox.y, found[i].bbox.w, found[i].bbox.h}});
  free_detections(found, count);
  std::stable_sort(objects.begin(), objects.end(),
                   [](const observe::DetectedObject& a, const observe::DetectedObject& b) { return a.score > b.score; });
  return objects;
}

std::vector<observe::DetectedObject> detect_objects(network* net, const cv::Mat& picture, const DetectionSettings& settings,
                                                    double* seconds) {
  std::vector<float> planes(static_cast<std::size_t>(3) * net->w * net->h);
  fit_picture(picture, settings_of(*net).stretch, net->w, net->h, planes.data());
  return detect_objects(net, planes.data(), picture.cols, picture.rows, settings, seconds);
}

base::Status for_each_image(const network* net, const std::vector<std::string>& images,
                            const std::function<base::Status(PreparedImage&)>& take) {
  const std::size_t ahead = std::clamp<std::size_t>(std::thread::hardware_concurrency(), 1, 8);
  std::vector<std::future<base::Result<PreparedImage>>> slots(ahead);
  const bool stretched = settings_of(*net).stretch;
  const auto start = [&](std::size_t i) {
    slots[i % ahead] = std::async(std::launch::async, prepare, static_cast<int>(i), images[i], stretched, net->w, net->h);
  };
  for (std::size_t i = 0; i < std::min(ahead, images.size()); ++i) start(i);
  for (std::size_t i = 0; i < images.size(); ++i) {
    TESSERA_ASSIGN(PreparedImage prepared, slots[i % ahead].get());
    if (i + ahead < images.size()) start(i + ahead);
    TESSERA_TRY(take(prepared));
  }
  return {};
}

base::Result<std::vector<observe::TrueObject>> read_objects(const std::vector<std::string>& images, int classes) {
  std::vector<observe::TrueObject> objects;
  for (std::size_t i = 0; i < images.size(); ++i) {
    const std::string path = data::label_path(images[i]);
    const auto labels = data::read_labels(path);
    if (!labels && labels.error().code == base::ErrorCode::kNotFound) continue;  // an image without objects
    if (!labels) return tl::unexpected(labels.error());
    for (const data::Label& label : *labels) {
      if (const std::string mistake = data::label_mistake(label, classes); !mistake.empty())
        return base::error(base::ErrorCode::kInvalidArgument, "{}:{}: {}", path, label.line, mistake);
      objects.push_back({static_cast<int>(i), label.class_id, {label.x, label.y, label.w, label.h}});
    }
  }
  return objects;
}

base::Result<observe::Precision> evaluate_detector(network* net, const std::vector<std::string>& images,
                                                   const observe::PrecisionSettings& settings, const DetectionSettings& detection) {
  TESSERA_ASSIGN(const std::vector<observe::TrueObject> objects, read_objects(images, settings.classes));
  std::vector<observe::DetectedObject> detections;
  {
    const BatchOfOne batch(net);
    TESSERA_TRY(for_each_image(net, images, [&](PreparedImage& image) -> base::Status {
      for (observe::DetectedObject& object : detect_objects(net, image.planes.data(), image.width, image.height, detection)) {
        object.image = image.index;
        detections.push_back(object);
      }
      return {};
    }));
  }
  return observe::measure_precision(objects, detections, settings);
}

}  // namespace tessera::darknet
