// Workers that die or hang in the middle of a training: it goes on, and its result is that of an undisturbed one.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <signal.h>

#include <random>

#include "tests/support/seed.hpp"
#include "tests/support/training_run.hpp"

using namespace tessera::testing;
using tessera::base::Clock;
using tessera::base::Milliseconds;
using tessera::base::seconds_between;

namespace {

constexpr double kSameResult = 1e-4;
// 3 s are promised; the rest is for this machine to let the coordinator say so.
constexpr double kDetectionSeconds = 3.5;
// Workers are lost in the first half: a fast machine must not be through before a test gets round to it.
constexpr int kIterations = 60;

TrainingCfg with_workers(int count, std::vector<std::string> more = {}) {
  TrainingCfg cfg;
  cfg.iterations = kIterations;
  cfg.distributed = {count == 0 ? "workers=none" : fmt::format("workers=local:{}", count), "threads=1"};
  cfg.distributed.insert(cfg.distributed.end(), more.begin(), more.end());
  return cfg;
}

void check_same_result(const std::string& weights, const std::string& reference) {
  CHECK(seen_images(weights) == seen_images(reference));
  CHECK(weights_distance(weights, reference) <= kSameResult);
}

// A moment somewhere in iteration `iteration` + 1.
void wait_for_moment(const TrainingRun& run, int iteration, std::mt19937_64& random) {
  run.wait_for_iteration(iteration);
  std::this_thread::sleep_for(std::chrono::microseconds(random() % 30000));
}

// Seconds until the training says that it goes on with those who are left.
double seconds_until_going_on(const TrainingRun& run, const std::string& with, tessera::base::TimePoint since) {
  const std::string line = "going on with " + with;
  run.wait_for_line(line, 20, since);
  return seconds_between(since, run.time_of_line(line, since));
}

}  // namespace

TEST_CASE("a worker killed at any moment is noticed at once and costs nothing but time") {
  const TrainingFolder folder;
  const std::string alone = train(folder, "alone", with_workers(0));
  std::mt19937_64 random(seed());
  for (int moment = 0; moment < 4; ++moment) {
    const int iteration = 1 + static_cast<int>(random() % 27);
    const std::size_t victim = random() % 4;
    INFO("seed ", seed(), ", killed after iteration ", iteration, ": worker ", victim + 1);
    TrainingRun run(folder, fmt::format("killed{}", moment), with_workers(4));
    const auto pids = run.worker_pids();
    wait_for_moment(run, iteration, random);
    const auto when = Clock::now();
    REQUIRE(::kill(pids[victim], SIGKILL) == 0);
    CHECK(seconds_until_going_on(run, "3 workers", when) <= kDetectionSeconds);
    check_same_result(run.finish(), alone);
    CHECK(folder.leftovers().empty());
  }
}

TEST_CASE("a worker killed while everybody has filters of their own only costs nothing but time") {
  const TrainingFolder folder;
  const std::string alone = train(folder, "alone", with_workers(0));
  std::mt19937_64 random(seed());
  for (const char* channels : {"channels=2", "channels=5"}) {
    INFO("seed ", seed(), ", ", std::string(channels));
    TrainingRun run(folder, "killed", with_workers(4, {channels}));
    const auto pids = run.worker_pids();
    const char* const left[] = {"3 workers", "2 workers", "1 worker"};
    for (std::size_t i = 0; i < 3; ++i) {
      wait_for_moment(run, 3 + 9 * static_cast<int>(i), random);
      const auto when = Clock::now();
      REQUIRE(::kill(pids[(i + 1) % 4], SIGKILL) == 0);
      CHECK(seconds_until_going_on(run, left[i], when) <= kDetectionSeconds);
    }
    check_same_result(run.finish(), alone);
  }
  CHECK(folder.leftovers().empty());
}

TEST_CASE("a worker killed while gradients are summed or updates are shared costs nothing but time") {
  const TrainingFolder folder;
  TrainingCfg cfg = with_workers(0);
  cfg.heavy = true, cfg.side = 32, cfg.iterations = 24;
  // The reference would take seconds; this library adds in an order that depends on the processor, so smaller steps.
  cfg.backend = "blas", cfg.learning_rate = 0.00002;
  const std::string alone = train(folder, "alone", cfg);
  cfg.distributed = with_workers(4).distributed;
  std::mt19937_64 random(seed());
  for (int moment = 0; moment < 6; ++moment) {
    const std::size_t victim = random() % 4;
    INFO("seed ", seed(), ", run ", moment, ": worker ", victim + 1);
    TrainingRun run(folder, fmt::format("killed{}", moment), cfg);
    const auto pids = run.worker_pids();
    run.wait_for_iteration(2 + moment);
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 300000));
    const auto when = Clock::now();
    REQUIRE(::kill(pids[victim], SIGKILL) == 0);
    CHECK(seconds_until_going_on(run, "3 workers", when) <= kDetectionSeconds);
    check_same_result(run.finish(), alone);
  }
  CHECK(folder.leftovers().empty());
}

TEST_CASE("workers killed one after another, and at last all, leave the coordinator to finish alone") {
  const TrainingFolder folder;
  const std::string alone = train(folder, "alone", with_workers(0));
  std::mt19937_64 random(seed());
  {
    TrainingRun run(folder, "one_by_one", with_workers(3));
    const auto pids = run.worker_pids();
    const char* const left[] = {"2 workers", "1 worker", "the coordinator alone"};
    for (std::size_t victim = 0; victim < pids.size(); ++victim) {
      wait_for_moment(run, 5 + 8 * static_cast<int>(victim), random);
      const auto when = Clock::now();
      REQUIRE(::kill(pids[victim], SIGKILL) == 0);
      CHECK(seconds_until_going_on(run, left[victim], when) <= kDetectionSeconds);
    }
    check_same_result(run.finish(), alone);
  }
  {
    INFO("all at the same time");
    TrainingRun run(folder, "all", with_workers(3));
    const auto pids = run.worker_pids();
    wait_for_moment(run, 10, random);
    const auto when = Clock::now();
    for (const pid_t pid : pids) REQUIRE(::kill(pid, SIGKILL) == 0);
    CHECK(seconds_until_going_on(run, "the coordinator alone", when) <= kDetectionSeconds);
    check_same_result(run.finish(), alone);
  }
  CHECK(folder.leftovers().empty());
}

TEST_CASE("a worker stopped for a moment too long is given up, and its return disturbs nobody") {
  const TrainingFolder folder;
  TrainingRun run(folder, "stopped", with_workers(3));
  const auto pids = run.worker_pids();
  run.wait_for_iteration(5);
  const auto when = Clock::now();
  REQUIRE(::kill(pids[1], SIGSTOP) == 0);
  CHECK(seconds_until_going_on(run, "2 workers", when) <= kDetectionSeconds);
  REQUIRE(::kill(pids[1], SIGCONT) == 0);  // the other workers are in the middle of their work
  check_same_result(run.finish(), train(folder, "alone", with_workers(0)));
  for (const pid_t pid : pids) CHECK_FALSE(is_running(pid));
  CHECK(folder.leftovers().empty());
}

TEST_CASE("a worker stopped for 30 s serves again afterwards") {
  const TrainingFolder folder;
  const std::string alone = train(folder, "alone", with_workers(0));
  const WorkerProcess first(folder.path()), second(folder.path()), third(folder.path());
  folder.write_cluster_file({first.address(), second.address(), third.address()});
  TrainingCfg cfg = with_workers(3);
  cfg.distributed[0] = "workers=cluster.json";
  const auto stopped = Clock::now();
  {
    TrainingRun run(folder, "stopped", cfg);
    run.wait_for_iteration(4);
    const auto when = Clock::now();
    second.signal(SIGSTOP);
    CHECK(seconds_until_going_on(run, "2 workers", when) <= kDetectionSeconds);
    check_same_result(run.finish(), alone);
  }
  std::this_thread::sleep_until(stopped + std::chrono::seconds(30));
  second.signal(SIGCONT);
  second.wait_for_line("session over", 15);
  TrainingRun run(folder, "again", cfg);
  check_same_result(run.finish(), alone);
  CHECK_FALSE(run.has_line("going on with"));
}
