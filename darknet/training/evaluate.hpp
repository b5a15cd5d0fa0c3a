// Runs a network over a list of labelled images.
#pragma once

#include <opencv2/core.hpp>

#include <functional>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "observe/average_precision.hpp"

struct layer;
struct network;

namespace tessera::darknet {

struct DetectionSettings {
  float score_threshold = 0.005f;
  float hierarchy_threshold = 0.5f;
  float nms_threshold = 0.45f;
};

// Detections of one image, boxes relative to the image, after non-maximum suppression; best score first. `seconds`
// gets the time of the network alone.
std::vector<observe::DetectedObject> detect_objects(network* net, const cv::Mat& picture, const DetectionSettings& settings,
                                                    double* seconds = nullptr);
// The same for an image letterboxed already (image_file.hpp).
std::vector<observe::DetectedObject> detect_objects(network* net, float* planes, int image_width, int image_height,
                                                    const DetectionSettings& settings, double* seconds = nullptr);

// Calls `take` for every image of the list, in order, with pictures decoded and letterboxed ahead in other threads.
// An unreadable image stops it with an error.
struct PreparedImage {
  int index = 0;
  int width = 0, height = 0;
  std::vector<float> planes;
};
[[nodiscard]] base::Status for_each_image(const network* net, const std::vector<std::string>& images,
                                          const std::function<base::Status(PreparedImage&)>& take);

// Labels of all images, in the order of the list.
[[nodiscard]] base::Result<std::vector<observe::TrueObject>> read_objects(const std::vector<std::string>& images, int classes);

// mAP over a list. Tests with batch 1 and gives the network its batch back.
[[nodiscard]] base::Result<observe::Precision> evaluate_detector(network* net, const std::vector<std::string>& images,
                                                                 const observe::PrecisionSettings& settings,
                                                                 const DetectionSettings& detection = {});

// The layer that says how many classes there are: the last yolo, region or detection layer; null without one.
const layer* detection_head(const network* net);

}  // namespace tessera::darknet
