// Worked by hand; the first case is the classic one of seven images, 15 objects and 24 detections.
#include <doctest/doctest.h>

#include <array>
#include <vector>

#include "observe/average_precision.hpp"

using namespace tessera;

namespace {

double ap(std::initializer_list<bool> flags, int objects, int points) {
  const std::vector<char> bytes(flags.begin(), flags.end());
  bool is_true[64];
  for (std::size_t i = 0; i < bytes.size(); ++i) is_true[i] = bytes[i] != 0;
  return observe::average_precision({is_true, bytes.size()}, objects, points);
}

const observe::Rect kHere{0.5f, 0.5f, 0.2f, 0.2f}, kThere{0.2f, 0.2f, 0.2f, 0.2f};

}  // namespace

TEST_CASE("intersection over union") {
  CHECK(observe::intersection_over_union(kHere, kHere) == doctest::Approx(1));
  CHECK(observe::intersection_over_union(kHere, kThere) == 0);
  CHECK(observe::intersection_over_union({0, 0, 2, 2}, {1, 0, 2, 2}) == doctest::Approx(2.0 / 6));
  CHECK(observe::intersection_over_union({0, 0, 2, 2}, {0, 0, 1, 1}) == doctest::Approx(0.25));
  CHECK(observe::intersection_over_union({0, 0, 0, 0}, {0, 0, 0, 0}) == 0);
}

TEST_CASE("average precision of one class") {
  // True, false, true: precisions 1, 1/2, 2/3 at recalls 1/2, 1/2, 1.
  CHECK(ap({true, false, true}, 2, 0) == doctest::Approx(0.5 * 1 + 0.5 * 2.0 / 3));
  // 11 points: recalls 0 to 0.5 (6 of them) have precision 1, 0.6 to 1 (5) have 2/3.
  CHECK(ap({true, false, true}, 2, 11) == doctest::Approx((6 * 1 + 5 * 2.0 / 3) / 11));
  // 101 points: 0 to 0.50 are 51, the rest 50.
  CHECK(ap({true, false, true}, 2, 101) == doctest::Approx((51 * 1 + 50 * 2.0 / 3) / 101));
  // Found one of four: the curve ends at recall 1/4.
  CHECK(ap({true}, 4, 0) == doctest::Approx(0.25));
  CHECK(ap({true}, 4, 11) == doctest::Approx(3.0 / 11));
  CHECK(ap({true}, 4, 101) == doctest::Approx(26.0 / 101));
  CHECK(ap({true, true}, 2, 0) == doctest::Approx(1));
  CHECK(ap({true, true}, 2, 11) == doctest::Approx(1));
  CHECK(ap({false, false}, 2, 0) == 0);
  CHECK(ap({}, 2, 0) == 0);
  CHECK(ap({false}, 0, 0) == 0);
}

TEST_CASE("the precision-recall curve of 24 detections for 15 objects") {
  // Hits at ranks 1, 3, 10, 12, 13, 14, 23. Interpolated precisions there: 1, 2/3, 6/14 (four times), 7/23.
  bool hits[24] = {};
  for (const int rank : {1, 3, 10, 12, 13, 14, 23}) hits[rank - 1] = true;
  CHECK(observe::average_precision(hits, 15, 0) == doctest::Approx((1 + 2.0 / 3 + 4 * 6.0 / 14 + 7.0 / 23) / 15));
  // Recall 0 -> 1; 0.1 -> 2/3 (reached at 2/15); 0.2, 0.3, 0.4 -> 6/14 (up to 6/15); 0.5 and more are not reached.
  CHECK(observe::average_precision(hits, 15, 11) == doctest::Approx((1 + 2.0 / 3 + 3 * 6.0 / 14) / 11));
}

TEST_CASE("detections claim objects in falling order of score, an object only once") {
  observe::PrecisionSettings settings;
  settings.classes = 2;
  const std::vector<observe::TrueObject> objects = {{0, 0, kHere}, {1, 0, kHere}, {0, 1, kThere}};
  SUBCASE("all found") {
    const std::vector<observe::DetectedObject> detections = {{0, 0, 0.9f, kHere}, {1, 0, 0.8f, kHere}, {0, 1, 0.7f, kThere}};
    const observe::Precision result = observe::measure_precision(objects, detections, settings);
    CHECK(result.mean_average_precision == doctest::Approx(1));
    CHECK(result.true_positives == 3);
    CHECK(result.false_positives == 0);
    CHECK(result.false_negatives == 0);
    CHECK(result.f1() == doctest::Approx(1));
    CHECK(result.mean_iou == doctest::Approx(1));
  }
  SUBCASE("a second detection of one object is false, whatever the order it comes in") {
    const std::vector<observe::DetectedObject> detections = {{0, 0, 0.6f, kHere}, {0, 0, 0.9f, kHere}};
    const observe::Precision result = observe::measure_precision(objects, detections, settings);
    CHECK(result.classes[0].average_precision == doctest::Approx(0.5));
    CHECK(result.true_positives == 1);
    CHECK(result.false_positives == 1);
    CHECK(result.false_negatives == 2);
    CHECK(result.precision() == doctest::Approx(0.5));
    CHECK(result.recall() == doctest::Approx(1.0 / 3));
    CHECK(result.f1() == doctest::Approx(0.4));
    CHECK(result.mean_average_precision == doctest::Approx(0.25));
  }
  SUBCASE("another class, another image or too little overlap does not count") {
    const observe::Rect shifted{0.5f, 0.57f, 0.2f, 0.2f};  // IoU 13/27 = 0.48
    const std::vector<observe::DetectedObject> detections = {{0, 1, 0.9f, kHere}, {1, 1, 0.9f, kThere}, {0, 0, 0.9f, shifted}};
    CHECK(observe::measure_precision(objects, detections, settings).true_positives == 0);
    settings.iou_threshold = 0.48;
    CHECK(observe::measure_precision(objects, detections, settings).true_positives == 1);
  }
  SUBCASE("AP uses every score, the counts only those at the threshold") {
    const std::vector<observe::DetectedObject> detections = {{0, 0, 0.9f, kHere}, {1, 0, 0.1f, kHere}};
    const observe::Precision result = observe::measure_precision(objects, detections, settings);
    CHECK(result.classes[0].average_precision == doctest::Approx(1));
    CHECK(result.classes[0].true_positives == 1);
    CHECK(result.false_negatives == 2);
  }
  SUBCASE("a class without objects does not lower the mean") {
    settings.classes = 3;
    const std::vector<observe::DetectedObject> detections = {
        {0, 0, 0.9f, kHere}, {1, 0, 0.8f, kHere}, {0, 1, 0.7f, kThere}, {0, 2, 0.9f, kHere}};
    const observe::Precision result = observe::measure_precision(objects, detections, settings);
    CHECK(result.mean_average_precision == doctest::Approx(1));
    CHECK(result.false_positives == 1);
  }
}
