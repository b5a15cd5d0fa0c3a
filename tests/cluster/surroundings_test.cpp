// What goes on around a training: terminals close, pipes end, disks fill up. And weights from strangers.
#include <doctest/doctest.h>

#include <csignal>
#include <cstring>

#include "tests/cluster/commands_fixture.hpp"
#include "tests/support/worker_process.hpp"

using namespace tessera::testing;

namespace {

std::string training(const std::string& cfg, const std::string& redirected) {
  return program() + " detector train obj.data " + cfg + " -dont_show -backend blas " + redirected;
}

}  // namespace

TEST_CASE("a training whose output nobody takes goes on to its end") {
  const Workshop workshop;
  for (const char* redirected : {">/dev/full 2>/dev/full", "2>&1 | head -n 1 >/dev/null; test $PIPESTATUS -eq 0", ">&- 2>&-"}) {
    INFO(redirected);
    workshop.remove("backup");
    Process run({"bash", "-c", training("tiny.cfg", redirected)}, workshop.path("."));
    CHECK(run.wait(120) == 0);
    CHECK(workshop.has("backup/tiny_final.weights"));
  }
}

TEST_CASE("a terminal that closes has the training save and end, with nohup it goes on") {
  const Workshop workshop;
  workshop.derive_cfg("long.cfg", "max_batches=", "max_batches=999");
  Process run({program(), "detector", "train", "obj.data", "long.cfg", "-backend", "blas"}, workshop.path("."));
  run.wait_for_line("3: ", 60);
  run.signal(SIGHUP);
  CHECK(run.wait(60) == 130);
  CHECK(workshop.has("backup/long_last.weights"));
  Process deaf({"bash", "-c", "trap '' HUP; exec " + training("tiny.cfg", "")}, workshop.path("."));
  deaf.wait_for_line("1: ", 60);
  deaf.signal(SIGHUP);
  CHECK(deaf.wait(120) == 0);
}

TEST_CASE("weights that are numbers and nonsense give no objects and no crash") {
  const Workshop workshop;
  REQUIRE(workshop.run({"detector", "train", "obj.data", "tiny.cfg", "-backend", "blas"}).code == 0);
  std::string weights = workshop.read("backup/tiny_final.weights");
  for (const float value : {-1.0f, 3e38f, -3e38f, 1e20f})
    for (const char* backend : {"blas", "stock"}) {
      CAPTURE(value);
      for (std::size_t at = 20; at + 4 <= weights.size(); at += 4) std::memcpy(weights.data() + at, &value, 4);
      workshop.write("bad.weights", weights);
      const Outcome outcome =
          workshop.run({"detector", "test", "obj.data", "tiny.cfg", "bad.weights", "images/0.png", "-backend", backend, "-dont_show"});
      INFO(outcome.err);
      CHECK(outcome.code < 2);
    }
}

TEST_CASE("a backup folder that vanishes in mid-run is made again, and one that cannot be written to ends nothing") {
  const Workshop workshop;
  workshop.derive_cfg("long.cfg", "max_batches=20", "max_batches=260");
  Process run({program(), "detector", "train", "obj.data", "long.cfg", "-backend", "blas"}, workshop.path("."));
  run.wait_for_line("20: ", 60);
  workshop.remove("backup");
  workshop.write("backup", "a file where the folder was");
  run.wait_for_line("this is tried again", 60);
  workshop.remove("backup");
  CHECK(run.wait(120) == 0);
  CHECK(workshop.has("backup/long_final.weights"));
  CHECK(workshop.has("backup/long_260.checkpoint"));
}

TEST_CASE("two trainings of one name and folder: the second says who is there and ends") {
  const Workshop workshop;
  workshop.derive_cfg("long.cfg", "max_batches=", "max_batches=999");
  Process run({program(), "detector", "train", "obj.data", "long.cfg", "-backend", "blas"}, workshop.path("."));
  run.wait_for_line("1: ", 60);
  const Outcome second = workshop.run({"detector", "train", "obj.data", "long.cfg", "-backend", "blas"});
  CHECK(second.code == 1);
  CHECK(second.err.find("another training (process " + std::to_string(run.pid()) + ")") != std::string::npos);
}

TEST_CASE("killed at any moment and gone on with -resume, a training ends with the weights of an undisturbed one") {
  const Workshop workshop;
  workshop.derive_cfg("long.cfg", "max_batches=20", "max_batches=320");
  const std::vector<std::string> train = {program(), "detector", "train", "obj.data", "long.cfg", "-resume", "-backend", "blas"};
  REQUIRE(Process(train, workshop.path(".")).wait(120) == 0);
  const std::string undisturbed = workshop.read("backup/long_final.weights");
  workshop.remove("backup");
  for (const char* line : {"50: ", "100: ", "101: ", "230: ", "300: "}) {
    INFO(line);
    Process run(train, workshop.path("."));
    run.wait_for_line(line, 120);
    run.signal(SIGKILL);
    run.wait(20);
  }
  Process last(train, workshop.path("."));
  CHECK(last.wait(120) == 0);
  CHECK(last.out().find("with momentum") != std::string::npos);
  CHECK(workshop.read("backup/long_final.weights") == undisturbed);
}
