// The split scheduler against brute force over all cuts, on small random cases.
#include "plan/split_scheduler.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "tests/support/random.hpp"
#include "tests/support/seed.hpp"

using namespace tessera::plan;
using tessera::testing::Rng;

namespace {

struct Case {
  SplitNetwork network;
  SplitSetting setting;
  std::vector<SplitDevice> devices;
};

// Maps that shrink and weights that grow with depth, devices and links up to 100 times apart.
Case random_case(Rng& rng, int devices, int layers) {
  Case c;
  SplitCut cut;
  double map = 1e6 * (0.5 + rng.uniform());
  for (int l = 1; l <= layers; ++l) {
    cut.depth = l;
    cut.work += 1e8 * (0.1 + rng.uniform());
    map *= 0.4 + 0.9 * rng.uniform();
    cut.activation_bytes = map;
    cut.parameter_bytes += 1e4 * std::pow(3.0, l * 5.0 / layers) * rng.uniform();
    cut.memory_bytes = 3 * cut.parameter_bytes;
    cut.sample_memory_bytes += map;
    cut.allowed = l == layers || !rng.chance(0.15);
    c.network.cuts.push_back(cut);
  }
  c.network.work = cut.work * (1 + 0.2 * rng.uniform());
  c.setting = {1e11 * std::pow(10.0, 2 * rng.uniform() - 1), 1e7 * std::pow(10.0, 2 * rng.uniform() - 1), 100, rng.between(1, 5), 1};
  for (int i = 0; i < devices; ++i) {
    SplitDevice d;
    d.name = "d" + std::to_string(i);
    d.speed = 1e9 * std::pow(100.0, rng.uniform());
    d.link = rng.chance(0.5) ? c.setting.bandwidth * (0.1 + rng.uniform()) : 0;
    d.batch = rng.between(1, 16);
    d.efficiency = 0.5 + 0.5 * rng.uniform();
    if (rng.chance(0.3)) d.memory = c.network.cuts[rng.below(c.network.cuts.size())].sample_memory_bytes * d.batch * 1.5 + 1e6;
    c.devices.push_back(d);
  }
  return c;
}

int samples(const Case& c) {
  int sum = 0;
  for (const SplitDevice& d : c.devices) sum += d.batch;
  return sum;
}

// The least round time for given cuts: by a search of its own over times, on split_times alone.
double best_seconds(const Case& c, const std::vector<int>& cuts) {
  const auto fits = [&](double target) {
    double sum = 0;
    for (std::size_t i = 0; i < cuts.size(); ++i) {
      const SplitTimes t = split_times(c.network, c.setting, c.devices[i], samples(c), cuts[i], 1);
      const double slack = target - t.computation - t.server, link = c.devices[i].link > 0 ? c.devices[i].link : c.setting.bandwidth;
      if (slack <= 0 || (t.upload + t.download) / slack > std::min(link, c.setting.bandwidth)) return false;
      sum += (t.upload + t.download) / slack;
    }
    return sum <= c.setting.bandwidth;
  };
  double low = 0, high = 1e-3;
  while (!fits(high)) low = high, high *= 2;
  for (int i = 0; i < 60; ++i) (fits((low + high) / 2) ? high : low) = (low + high) / 2;
  return high;
}

double brute_force(const Case& c) {
  std::vector<int> cuts(c.devices.size(), 0);
  double best = std::numeric_limits<double>::infinity();
  while (true) {
    bool feasible = true;
    for (std::size_t i = 0; i < cuts.size(); ++i) feasible = feasible && is_feasible(c.network, c.setting, c.devices[i], cuts[i]);
    if (feasible) best = std::min(best, best_seconds(c, cuts));
    std::size_t digit = 0;
    while (digit < cuts.size() && ++cuts[digit] == static_cast<int>(c.network.cuts.size())) cuts[digit++] = 0;
    if (digit == cuts.size()) return best;
  }
}

// The shares are within every limit and lead to the time that is claimed.
void check_consistent(const Case& c, const SplitAssignment& a) {
  double sum = 0, slowest = 0;
  for (std::size_t i = 0; i < c.devices.size(); ++i) {
    CHECK(is_feasible(c.network, c.setting, c.devices[i], a.cuts[i]));
    CHECK(a.shares[i] <= (c.devices[i].link > 0 ? c.devices[i].link : c.setting.bandwidth) * (1 + 1e-9));
    sum += a.shares[i];
    slowest = std::max(slowest, split_times(c.network, c.setting, c.devices[i], samples(c), a.cuts[i], a.shares[i]).total());
  }
  CHECK(sum <= c.setting.bandwidth * (1 + 1e-9));
  CHECK(std::abs(slowest - a.seconds) <= 1e-9 * a.seconds);
}

}  // namespace

TEST_CASE("split: the optimum equals brute force, so does the alternation, which never gets worse") {
  CAPTURE(tessera::testing::seed());
  Rng rng(tessera::testing::seed());
  int compared = 0;
  int mixed = 0, full = 0, moved = 0;  // the cases are not trivial
  while (compared < 1200) {
    const Case c = random_case(rng, rng.between(1, 4), rng.between(1, 6));
    CAPTURE(compared);
    const auto exact = schedule_split(c.network, c.setting, c.devices);
    const auto steps = alternate(c.network, c.setting, c.devices);
    REQUIRE(exact.has_value() == steps.has_value());
    const double best = brute_force(c);
    REQUIRE(exact.has_value() == std::isfinite(best));
    if (!exact) {
      CHECK((exact.error().message.find("MB") != std::string::npos || exact.error().message.find("boundary") != std::string::npos));
      continue;
    }
    ++compared;
    check_consistent(c, *exact);
    check_consistent(c, *steps);
    CHECK(std::abs(exact->seconds / best - 1) <= 1e-9);
    CHECK(steps->seconds <= best * (1 + 1e-9));
    mixed += std::any_of(exact->cuts.begin(), exact->cuts.end(), [&](int cut) { return cut != exact->cuts[0]; });
    full += std::accumulate(exact->shares.begin(), exact->shares.end(), 0.0) > 0.999 * c.setting.bandwidth;
    moved += steps->history.size() > 1;
    for (std::size_t i = 1; i < steps->history.size(); ++i) CHECK(steps->history[i] <= steps->history[i - 1]);
  }
  MESSAGE(compared, " cases: ", mixed, " with different cuts, ", full, " with a full link, ", moved, " where alternating moved a cut");
  CHECK(std::min(mixed, full) > compared / 10);
  CHECK(moved > 10);
}

TEST_CASE("split: faster links and servers never make a round longer; privacy and memory move cuts") {
  Rng rng(tessera::testing::seed() + 1);
  for (int n = 0; n < 100; ++n) {
    Case c = random_case(rng, 5, 10);
    const auto before = schedule_split(c.network, c.setting, c.devices);
    if (!before) continue;
    c.setting.bandwidth *= 1.5;
    const auto wider = schedule_split(c.network, c.setting, c.devices);
    REQUIRE(wider.has_value());
    CHECK(wider->seconds <= before->seconds * (1 + 1e-9));
    c.setting.server_speed *= 2;
    const auto quicker = schedule_split(c.network, c.setting, c.devices);
    REQUIRE(quicker.has_value());
    CHECK(quicker->seconds <= wider->seconds * (1 + 1e-9));
    c.setting.least_depth = 6;
    if (const auto hidden = schedule_split(c.network, c.setting, c.devices)) {
      CHECK(hidden->seconds >= quicker->seconds * (1 - 1e-9));
      for (const int cut : hidden->cuts) CHECK(c.network.cuts[static_cast<std::size_t>(cut)].depth >= 6);
    }
  }
}

TEST_CASE("split: one device with everything equal is computed by hand") {
  const SplitNetwork network{{{1, 100, 1000, 50, 10, 5}, {2, 300, 10, 400, 20, 8}}, 500};
  const SplitSetting setting{1000, 2000, 1, 2, 1};
  const std::vector<SplitDevice> devices{{"only", 100, 0, 0, 4, 1}};
  // Depth 1: 4 + 1.6 + (2 * 4000 + 4 + 2 * 25) / 2000; depth 2: 12 + 0.8 + (2 * 40 + 4 + 2 * 200) / 2000.
  const auto best = schedule_split(network, setting, devices);
  REQUIRE(best.has_value());
  CHECK(best->cuts == std::vector<int>{0});
  CHECK(best->seconds == doctest::Approx(4 + 1.6 + 8054.0 / 2000));
  const SplitTimes t = split_times(network, setting, devices[0], 4, 1, 2000);
  CHECK(t.computation == doctest::Approx(12));
  CHECK(t.server == doctest::Approx(0.8));
  CHECK(t.upload == doctest::Approx((40 + 4 + 200) / 2000.0));
  CHECK(t.download == doctest::Approx((40 + 200) / 2000.0));
}

TEST_CASE("split: batches add up, follow the devices' speeds and memory, and are the best division where that is affordable") {
  Rng rng(tessera::testing::seed() + 2);
  for (int n = 0; n < 200; ++n) {
    Case c = random_case(rng, 3, 4);
    for (SplitDevice& d : c.devices) d.memory = 0;
    const int global = rng.between(3, 14);
    const auto found = schedule_batches(c.network, c.setting, c.devices, global);
    REQUIRE(found.has_value());
    CHECK(samples(c) == global);
    double best = std::numeric_limits<double>::infinity();
    Case other = c;
    for (int a = 1; a < global - 1; ++a)
      for (int b = 1; a + b < global; ++b) {
        other.devices[0].batch = a, other.devices[1].batch = b, other.devices[2].batch = global - a - b;
        best = std::min(best, schedule_split(other.network, other.setting, other.devices)->seconds);
      }
    CHECK(found->seconds >= best * (1 - 1e-9));
    CHECK(found->seconds <= best * (1 + 1e-9));
  }
  Case c = random_case(rng, 3, 4);
  CHECK(schedule_batches(c.network, c.setting, c.devices, 2).error().message.find("batch of 2") != std::string::npos);
  for (SplitDevice& d : c.devices) d.memory = 4 * (c.network.cuts[3].memory_bytes + c.network.cuts[3].sample_memory_bytes);
  CHECK(schedule_batches(c.network, c.setting, c.devices, 100000).error().message.find("memory") != std::string::npos);
  Case many = random_case(rng, 200, 10);  // too many to be exact
  for (SplitDevice& d : many.devices) d.memory = 0;
  const auto divided = schedule_batches(many.network, many.setting, many.devices, 400);
  REQUIRE(divided.has_value());
  CHECK(samples(many) == 400);
  for (std::size_t i = 0; i < many.devices.size(); ++i) many.devices[i].batch = 2;
  CHECK(divided->seconds <= schedule_split(many.network, many.setting, many.devices)->seconds);
}
