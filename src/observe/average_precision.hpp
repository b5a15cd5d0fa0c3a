// Average precision of a detector as the PASCAL VOC devkit defines it (Everingham et al. 2010; the 101-point
// variant is COCO's). Pure: boxes in, numbers out.
#pragma once

#include <span>
#include <vector>

namespace tessera::observe {

// Centre and size, in any unit, the same for all boxes of an image.
struct Rect {
  float x = 0, y = 0, w = 0, h = 0;
};

// Area of the intersection over area of the union; 0 for empty boxes.
double intersection_over_union(const Rect& a, const Rect& b);

struct TrueObject {
  int image = 0, class_id = 0;
  Rect box;
};

struct DetectedObject {
  int image = 0, class_id = 0;
  float score = 0;
  Rect box;
};

struct PrecisionSettings {
  int classes = 1;
  double iou_threshold = 0.5;     // a detection needs at least this overlap
  int points = 0;                 // 0: area under the interpolated curve; 11 or 101: mean over as many recalls
  double score_threshold = 0.25;  // for the counts below, not for AP
};

struct ClassPrecision {
  int objects = 0;
  int true_positives = 0, false_positives = 0;  // at score_threshold
  double average_precision = 0;                 // 0 when there are no objects
};

struct Precision {
  std::vector<ClassPrecision> classes;
  double mean_average_precision = 0;  // over the classes that have objects
  int true_positives = 0, false_positives = 0, false_negatives = 0;
  double mean_iou = 0;  // of the detections at score_threshold, false ones counted as 0

  double precision() const;
  double recall() const;
  double f1() const;
};

// Per class, detections in falling order of score (equal scores: in the order given) each claim the object of
// their image they overlap most; one that is claimed already, or overlaps too little, makes a false positive.
Precision measure_precision(std::span<const TrueObject> objects, std::span<const DetectedObject> detections,
                            const PrecisionSettings& settings);

// AP from the flags of one class' detections in falling order of score.
double average_precision(std::span<const bool> is_true, int objects, int points);

}  // namespace tessera::observe
