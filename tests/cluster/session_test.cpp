// Workers that somebody started by hand, and the sessions they serve one after another.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <signal.h>

#include "tests/support/training_run.hpp"

using namespace tessera::testing;
using tessera::base::Clock;
using tessera::base::seconds_between;

namespace {

// A worker gives a silent coordinator 10 s.
constexpr double kFreeAgainSeconds = 12;

TrainingCfg on_cluster(int iterations = 30) {
  TrainingCfg cfg;
  cfg.iterations = iterations;
  // One plan: a planner left to itself may choose other groups where messages take other ways.
  cfg.distributed = {"workers=cluster.json", "grid=2x1", "forward_groups=0,4,8", "backward_groups=1,5,9", "threads=1"};
  return cfg;
}

}  // namespace

TEST_CASE("one plan gives the same bits over ipc and tcp, and again with the same workers") {
  const TrainingFolder folder;
  TrainingCfg local = on_cluster();
  local.distributed[0] = "workers=local:2";
  const std::string over_ipc = train(folder, "ipc", local);
  const WorkerProcess first(folder.path()), second(folder.path());
  folder.write_cluster_file({first.address(), second.address()});
  CHECK(train(folder, "tcp", on_cluster()) == over_ipc);
  CHECK(train(folder, "again", on_cluster()) == over_ipc);
  CHECK(first.has_line("session over: closed"));
}

TEST_CASE("workers serve one training after another, and a resumed one ends with the weights of one that was never stopped") {
  const TrainingFolder folder;
  const WorkerProcess first(folder.path()), second(folder.path());
  folder.write_cluster_file({first.address(), second.address()});
  train(folder, "long", on_cluster(10));
  const std::string resumed = train(folder, "long", on_cluster(20), {"backup/long_last.weights"});
  CHECK(seen_images(resumed) == 20 * 4);
  CHECK(resumed == train(folder, "whole", on_cluster(20)));
}

TEST_CASE("a busy worker refuses a second coordinator, which does not disturb the first") {
  const TrainingFolder folder;
  const WorkerProcess first(folder.path()), second(folder.path());
  folder.write_cluster_file({first.address(), second.address()});
  TrainingRun run(folder, "first", on_cluster(100));
  run.wait_for_iteration(1);
  TrainingRun intruder(folder, "second", on_cluster());
  CHECK(intruder.wait(20) == 1);
  CHECK(intruder.seconds() < 5);
  CHECK(intruder.has_line("worker w1: it is busy with another session"));
  REQUIRE_FALSE(run.has_line("saved "));  // else nobody was busy
  const std::string weights = run.finish();
  CHECK(weights == train(folder, "undisturbed", on_cluster(100)));
}

TEST_CASE("workers outlive a coordinator that is killed, local ones end with it") {
  const TrainingFolder folder;
  const WorkerProcess first(folder.path()), second(folder.path());
  folder.write_cluster_file({first.address(), second.address()});
  {
    TrainingRun run(folder, "killed", on_cluster(1000));
    run.wait_for_iteration(2);
    const auto when = Clock::now();
    run.signal(SIGKILL);
    CHECK(run.wait(5) == 128 + SIGKILL);
    for (const WorkerProcess* worker : {&first, &second}) {
      worker->wait_for_line("session over", 30);
      CHECK(seconds_between(when, worker->time_of_line("session over")) <= kFreeAgainSeconds);
    }
  }
  const std::string weights = train(folder, "after", on_cluster(10));
  {
    TrainingCfg cfg = on_cluster(1000);
    cfg.distributed[0] = "workers=local:2";
    TrainingRun run(folder, "local", cfg);
    const auto pids = run.worker_pids();
    run.wait_for_iteration(2);
    CHECK(folder.leftovers().size() == 1);
    run.signal(SIGKILL);
    for (const pid_t pid : pids) CHECK(becomes_true([&] { return !is_running(pid); }, 5));
    CHECK(folder.leftovers().empty());
  }
  CHECK(seen_images(weights) == 10 * 4);
}
