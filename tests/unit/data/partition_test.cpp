// Pictures over edges, against the distributions they are drawn from.
#include "data/partition.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "observe/class_chart.hpp"
#include "tests/support/seed.hpp"

using namespace tessera;

namespace {

std::vector<int> balanced(int labels, int each) {
  std::vector<int> classes;
  for (int i = 0; i < labels * each; ++i) classes.push_back(i % labels);
  return classes;
}

bool each_once(const data::Partition& parts, std::size_t samples) {
  std::vector<int> seen(samples);
  for (const auto& part : parts) {
    if (!std::is_sorted(part.begin(), part.end())) return false;
    for (const std::size_t sample : part) ++seen.at(sample);
  }
  return std::all_of(seen.begin(), seen.end(), [](int times) { return times == 1; });
}

}  // namespace

TEST_CASE("without alpha every edge has the same number of pictures and about the same mixture") {
  const std::vector<int> classes = balanced(10, 400);
  const auto parts = data::partition(classes, {8, 0, testing::seed()});
  REQUIRE(parts);
  CHECK(each_once(*parts, classes.size()));
  for (const auto& edge : data::class_counts(*parts, classes, 10))
    for (const std::size_t count : edge) CHECK((count > 20 && count < 80));  // 50 ± 4.3 deviations of 6.9
  for (const auto& part : *parts) CHECK(part.size() == 500);
  CHECK(*parts == *data::partition(classes, {8, 0, testing::seed()}));
  CHECK(*parts != *data::partition(classes, {8, 0, testing::seed() + 1}));
}

TEST_CASE("with alpha a class's share on an edge has the mean and the variance of Dirichlet's distribution") {
  constexpr int kLabels = 10, kEach = 1000, kEdges = 4, kTrials = 150;
  const std::vector<int> classes = balanced(kLabels, kEach);
  for (const double alpha : {0.2, 0.5, 5.0}) {
    CAPTURE(alpha);
    double sum = 0, squares = 0, below = 0;
    for (int trial = 0; trial < kTrials; ++trial) {
      const auto parts = data::partition(classes, {kEdges, alpha, testing::seed() + static_cast<std::uint64_t>(trial), 0});
      REQUIRE(parts);
      if (trial == 0) CHECK(each_once(*parts, classes.size()));
      for (const auto& edge : data::class_counts(*parts, classes, kLabels))
        for (const std::size_t count : edge) {
          const double share = static_cast<double>(count) / kEach;
          sum += share, squares += share * share, below += share < 0.05;
        }
    }
    const double n = kLabels * kEdges * kTrials, mean = sum / n, variance = squares / n - mean * mean;
    const double wanted = 0.25 * 0.75 / (kEdges * alpha + 1);
    CHECK(std::fabs(mean - 0.25) <= 1e-9);  // shares of a class add up to 1
    CHECK(std::fabs(variance / wanted - 1) <= 0.08);
    // Not only two moments: the small shares of Beta(alpha, 3 alpha), integrated numerically.
    constexpr int kSteps = 200000;
    double low = 0, all = 0;
    for (int i = 0; i < kSteps; ++i) {
      // x = u^(1/alpha) takes the pole at 0 away, 1 - (1 - v)^(1/(3 alpha)) would at 1, where shares are rare.
      const double u = (i + 0.5) / kSteps, x = std::pow(u, 1 / alpha), weight = std::pow(1 - x, 3 * alpha - 1);
      all += weight, low += x < 0.05 ? weight : 0;
    }
    CHECK(std::fabs(below / n - low / all) <= 0.03);
  }
}

TEST_CASE("every edge gets at least ten pictures, or it is said why not") {
  const std::vector<int> classes = balanced(10, 60);
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const auto parts = data::partition(classes, {8, 0.3, seed});
    REQUIRE(parts);
    for (const auto& part : *parts) CHECK(part.size() >= 10);
  }
  CHECK(data::partition(classes, {61, 0, 1}).error().message.find("600 pictures cannot give each of 61 edges at least 10") == 0);
  CHECK(data::partition(classes, {0, 0, 1}).error().message.find("take fewer edges") != std::string::npos);
  CHECK(data::partition(classes, {4, -1, 1}).error().message.find("alpha=-1") == 0);
  CHECK(data::partition(balanced(1, 50), {5, 0.001, 1}).error().message.find("in 10000 draws") == 0);
  const auto parts = data::partition(balanced(2, 20), {2, 0, 1});
  const std::string table = observe::class_table(data::class_counts(*parts, balanced(2, 20), 2), {"cat", "dog"});
  CHECK(table.find("  edge pictures    cat    dog\n     0       20") == 0);
}
