// [yolo] and [Gaussian_yolo] as AlexeyAB's Darknet computes them: boxes, detections and loss.
#pragma once

#include <optional>
#include <vector>

#include "plugins/layers/boxes.hpp"
#include "plugins/layers/kinds.hpp"

namespace tessera::layers {

enum class Suppression { kDefault, kGreedy, kDistance };

struct YoloSettings {
  bool gaussian = false;
  int classes = 20, max_boxes = 200;
  std::vector<int> mask;       // anchors of this head
  std::vector<float> anchors;  // width, height of all anchors, in pixels of the network's input
  float ignore_thresh = 0.5f, truth_thresh = 1, iou_thresh = 1;
  float scale_xy = 1;
  bool new_coords = false;
  BoxLoss loss = BoxLoss::kMse, thresh_kind = BoxLoss::kIou;
  float iou_normalizer = 0.75f, obj_normalizer = 1, cls_normalizer = 1, uc_normalizer = 1, max_delta = 0;
  bool objectness_smooth = false, focal_loss = false, show_details = true;
  float label_smooth = 0;
  std::vector<float> class_multipliers;  // of counters_per_class; empty without
  float corner = 0;                      // x, y are the box's centre (0), left top (-1/2) or right bottom (+1/2)
  Suppression suppression = Suppression::kDefault;
  float suppression_exponent = 0.6f;
};

class Yolo : public darknet::OwnHead {
 public:
  explicit Yolo(YoloSettings settings) : s_(std::move(settings)) {}

  void forward(const layer& l, const network& net) override;
  void backward(const layer& l, const network& net) override;
  void resize(layer& l, int w, int h, const network& net) override;

  int count_detections(const layer& l, float threshold) const override;
  int detections(const layer& l, int net_w, int net_h, float threshold, detection* found) const override;
  void suppress(detection* found, int count, int classes, float threshold) const override;

 private:
  // Entries of an anchor. Gaussian heads have an uncertainty after each of x, y, w, h.
  int coordinate(int i) const { return s_.gaussian ? 2 * i : i; }
  int objectness() const { return s_.gaussian ? 8 : 4; }
  int class_entry(int c) const { return objectness() + 1 + c; }
  int entries() const { return class_entry(s_.classes); }
  // One anchor of one cell of one sample.
  struct Place {
    int sample, anchor, row, column;
  };
  std::size_t at(const layer& l, const Place& p, int entry) const;
  box predicted(const layer& l, const Place& p, int net_w, int net_h) const;
  float uncertainty(const layer& l, const Place& p) const;

  struct Label {
    box b;
    int class_id;
  };
  std::vector<Label> labels(const network& net, int sample) const;
  void background(const layer& l, const network& net, const Place& p, const std::vector<Label>& labels);
  void match(const layer& l, const network& net, int sample, const Label& label);
  void learn(const layer& l, const network& net, const Place& p, const Label& label, bool counted);
  void box_delta(const layer& l, const network& net, const Place& p, const Label& label, bool counted);
  void class_delta(const layer& l, const Place& p, int class_id) const;
  void share_boxes(const layer& l, int sample) const;
  float cost(const layer& l) const;
  float multiplier(int class_id) const {
    return s_.class_multipliers.empty() ? 1 : s_.class_multipliers[static_cast<std::size_t>(class_id)];
  }

  YoloSettings s_;
  double lost_overlap_ = 0;  // sum of 1 - overlap over the matched
  long matched_ = 0;
};

}  // namespace tessera::layers
