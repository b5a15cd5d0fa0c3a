#include "observe/average_precision.hpp"

#include <algorithm>
#include <map>
#include <memory>
#include <numeric>

#include "base/check.hpp"

namespace tessera::observe {
namespace {

double overlap(double centre_a, double size_a, double centre_b, double size_b) {
  const double begin = std::max(centre_a - size_a / 2, centre_b - size_b / 2);
  const double end = std::min(centre_a + size_a / 2, centre_b + size_b / 2);
  return std::max(0.0, end - begin);
}

struct Claim {
  std::size_t object = 0;
  double iou = 0;
};

}  // namespace

double intersection_over_union(const Rect& a, const Rect& b) {
  const double both = overlap(a.x, a.w, b.x, b.w) * overlap(a.y, a.h, b.y, b.h);
  const double either = static_cast<double>(a.w) * a.h + static_cast<double>(b.w) * b.h - both;
  return either > 0 ? both / either : 0;
}

double Precision::precision() const {
  const int positives = true_positives + false_positives;
  return positives ? static_cast<double>(true_positives) / positives : 0;
}

double Precision::recall() const {
  const int objects = true_positives + false_negatives;
  return objects ? static_cast<double>(true_positives) / objects : 0;
}

double Precision::f1() const {
  const double sum = precision() + recall();
  return sum > 0 ? 2 * precision() * recall() / sum : 0;
}

double average_precision(std::span<const bool> is_true, int objects, int points) {
  TESSERA_CHECK(points == 0 || points >= 2, "points={}", points);
  if (objects == 0 || is_true.empty()) return 0;
  std::vector<double> precision(is_true.size()), recall(is_true.size());
  int found = 0;
  for (std::size_t i = 0; i < is_true.size(); ++i) {
    found += is_true[i];
    precision[i] = static_cast<double>(found) / static_cast<double>(i + 1);
    recall[i] = static_cast<double>(found) / objects;
  }
  // Interpolated: the best precision at this recall or a higher one.
  for (std::size_t i = precision.size() - 1; i-- > 0;) precision[i] = std::max(precision[i], precision[i + 1]);

  double sum = 0;
  if (points == 0) {
    double reached = 0;
    for (std::size_t i = 0; i < recall.size(); ++i) {
      sum += (recall[i] - reached) * precision[i];
      reached = recall[i];
    }
    return sum;
  }
  for (int k = 0; k < points; ++k) {
    // recall >= k / (points - 1), compared without rounding.
    const auto at = std::find_if(recall.begin(), recall.end(), [&](double r) { return r * (points - 1) >= k - 1e-9; });
    if (at != recall.end()) sum += precision[static_cast<std::size_t>(at - recall.begin())];
  }
  return sum / points;
}

Precision measure_precision(std::span<const TrueObject> objects, std::span<const DetectedObject> detections,
                            const PrecisionSettings& settings) {
  Precision result;
  result.classes.resize(static_cast<std::size_t>(settings.classes));
  std::map<std::pair<int, int>, std::vector<std::size_t>> by_image_and_class;
  for (std::size_t i = 0; i < objects.size(); ++i) {
    TESSERA_CHECK(objects[i].class_id >= 0 && objects[i].class_id < settings.classes, "class={} classes={}", objects[i].class_id,
                  settings.classes);
    by_image_and_class[{objects[i].image, objects[i].class_id}].push_back(i);
    ++result.classes[static_cast<std::size_t>(objects[i].class_id)].objects;
  }
  std::vector<std::vector<std::size_t>> by_class(result.classes.size());
  for (std::size_t i = 0; i < detections.size(); ++i) {
    TESSERA_CHECK(detections[i].class_id >= 0 && detections[i].class_id < settings.classes, "class={} classes={}", detections[i].class_id,
                  settings.classes);
    by_class[static_cast<std::size_t>(detections[i].class_id)].push_back(i);
  }

  std::vector<bool> claimed(objects.size(), false);
  const auto best_claim = [&](const DetectedObject& detection) {
    Claim best;
    const auto candidates = by_image_and_class.find({detection.image, detection.class_id});
    if (candidates == by_image_and_class.end()) return best;
    for (const std::size_t candidate : candidates->second) {
      const double iou = intersection_over_union(objects[candidate].box, detection.box);
      if (iou > best.iou) best = {candidate, iou};
    }
    return best;
  };

  double iou_sum = 0, mean_sum = 0;
  int classes_with_objects = 0, all_objects = 0;
  for (std::size_t c = 0; c < by_class.size(); ++c) {
    ClassPrecision& mine = result.classes[c];
    std::vector<std::size_t>& order = by_class[c];
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return detections[a].score > detections[b].score; });
    const auto flags = std::make_unique<bool[]>(order.size());
    for (std::size_t i = 0; i < order.size(); ++i) {
      const DetectedObject& detection = detections[order[i]];
      const Claim best = best_claim(detection);
      const bool hit = best.iou > 0 && best.iou >= settings.iou_threshold && !claimed[best.object];
      flags[i] = hit;
      if (hit) claimed[best.object] = true;
      if (!(detection.score >= settings.score_threshold)) continue;
      ++(hit ? mine.true_positives : mine.false_positives);
      if (hit) iou_sum += best.iou;
    }
    mine.average_precision = average_precision({flags.get(), order.size()}, mine.objects, settings.points);
    result.true_positives += mine.true_positives;
    result.false_positives += mine.false_positives;
    all_objects += mine.objects;
    if (mine.objects > 0) {
      ++classes_with_objects;
      mean_sum += mine.average_precision;
    }
  }
  result.false_negatives = all_objects - result.true_positives;
  result.mean_average_precision = classes_with_objects ? mean_sum / classes_with_objects : 0;
  const int positives = result.true_positives + result.false_positives;
  result.mean_iou = positives ? iou_sum / positives : 0;
  return result;
}

}  // namespace tessera::observe
