// Random networks of every family, wrapped under random plans, against stock Darknet: outputs, input deltas, every
// gradient, rolling statistics.
#include <doctest/doctest.h>

#include "tests/equivalence/twins.hpp"
#include "tests/support/seed.hpp"

using namespace tessera;
using testing::Rng;

namespace {

constexpr int kCasesPerFamily = 40;

void check_family(testing::Family family) {
  int uncertain = 0;
  std::size_t compared = 0;
  for (int i = 0; i < kCasesPerFamily; ++i) {
    const auto seed = testing::seed() + 1000 * static_cast<std::uint64_t>(family) + static_cast<std::uint64_t>(i);
    Rng rng(seed);
    testing::NetworkOptions options;
    options.batch = rng.between(1, 4);
    options.subdivisions = rng.between(1, 2);
    options.may_stop_backward = rng.chance(0.2);
    const auto c = testing::random_twin_case(seed, family, options, true);
    testing::Twins twins(c);
    twins.forward();
    twins.backward();
    const std::string wrong = testing::mismatch(twins, uncertain);
    REQUIRE_MESSAGE(wrong.empty(), wrong << "\n" << testing::describe(c));
    compared += twins.compare().size();
  }
  CAPTURE(uncertain);
  CHECK(static_cast<double>(uncertain) <= 0.03 * static_cast<double>(compared));
  CHECK(compared > kCasesPerFamily * 5);
}

}  // namespace

TEST_CASE("yolov2-tiny: 40 random plans against stock Darknet") { check_family(testing::Family::kYolov2Tiny); }
TEST_CASE("yolov2: 40 random plans against stock Darknet") { check_family(testing::Family::kYolov2); }
TEST_CASE("yolov3-tiny: 40 random plans against stock Darknet") { check_family(testing::Family::kYolov3Tiny); }
TEST_CASE("yolov3: 40 random plans against stock Darknet") { check_family(testing::Family::kYolov3); }
TEST_CASE("darknet19: 40 random plans against stock Darknet") { check_family(testing::Family::kDarknet19); }
TEST_CASE("darknet53: 40 random plans against stock Darknet") { check_family(testing::Family::kDarknet53); }
TEST_CASE("resnet18: 40 random plans against stock Darknet") { check_family(testing::Family::kResnet18); }
TEST_CASE("resnet50: 40 random plans against stock Darknet") { check_family(testing::Family::kResnet50); }
