// Cables that are pulled: packets of one computer neither arrive nor are refused, they vanish.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include "tests/fault/network_namespaces.hpp"
#include "tests/support/training_run.hpp"

using namespace tessera::testing;
using tessera::base::Clock;
using tessera::base::seconds_between;

namespace {

constexpr double kSameResult = 1e-4;
// 3 s are promised; the rest is for this machine to let the coordinator say so.
constexpr double kDetectionSeconds = 3.5;
constexpr int kWorkers = 3;

// Computer 0 is the coordinator.
std::vector<std::unique_ptr<WorkerProcess>> start_workers(const NetworkNamespaces& network, const TrainingFolder& folder) {
  std::vector<std::unique_ptr<WorkerProcess>> workers;
  std::vector<std::string> addresses;
  for (int computer = 1; computer <= kWorkers; ++computer) {
    addresses.push_back(fmt::format("tcp://{}:5555", network.ip(computer)));
    workers.push_back(std::make_unique<WorkerProcess>(folder.path(), addresses.back(), network.inside(computer)));
  }
  folder.write_cluster_file(addresses);
  return workers;
}

TrainingCfg cfg_with(const std::string& workers) {
  TrainingCfg cfg;
  cfg.iterations = 40;
  cfg.distributed = {workers, "threads=1"};
  return cfg;
}

void check_same_result(const std::string& weights, const std::string& reference) {
  CHECK(seen_images(weights) == seen_images(reference));
  CHECK(weights_distance(weights, reference) <= kSameResult);
}

}  // namespace

TEST_CASE("a worker whose cable is pulled is noticed, the training ends right, and the worker is free again") {
  const NetworkNamespaces network(kWorkers + 1);
  const TrainingFolder folder;
  const std::string alone = train(folder, "alone", cfg_with("workers=none"));
  const auto workers = start_workers(network, folder);
  {
    TrainingRun run(folder, "cut", cfg_with("workers=cluster.json"), {"-insecure"}, network.inside(0));
    run.wait_for_iteration(6);
    const auto when = Clock::now();
    network.pull_cable(2);
    const std::string line = "going on with 2 workers";
    run.wait_for_line(line, 20, when);
    CHECK(seconds_between(when, run.time_of_line(line, when)) <= kDetectionSeconds);
    check_same_result(run.finish(), alone);
  }
  workers[1]->wait_for_line("session over", 20);
  network.plug_in_cable(2);
  TrainingRun again(folder, "again", cfg_with("workers=cluster.json"), {"-insecure"}, network.inside(0));
  check_same_result(again.finish(), alone);
  CHECK_FALSE(again.has_line("going on with"));
}

TEST_CASE("the coordinator's own cable is pulled: it goes on alone") {
  const NetworkNamespaces network(kWorkers + 1);
  const TrainingFolder folder;
  const std::string alone = train(folder, "alone", cfg_with("workers=none"));
  const auto workers = start_workers(network, folder);
  TrainingRun run(folder, "cut", cfg_with("workers=cluster.json"), {"-insecure"}, network.inside(0));
  run.wait_for_iteration(6);
  network.pull_cable(0);
  run.wait_for_line("going on with the coordinator alone", 20);
  check_same_result(run.finish(), alone);
  for (const auto& worker : workers) worker->wait_for_line("session over", 20);
}
