// The script that runs the test programs: no way of failing may go uncounted.
#include <doctest/doctest.h>
#include <stdlib.h>
#include <sys/wait.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;

struct Outcome {
  int status = -1;
  std::string last_line;
};

// Runs run_tests.sh over one shell script per body, with a limit of one second each.
Outcome run_tests(const std::vector<std::string>& bodies) {
  std::string folder = (fs::temp_directory_path() / "tessera-run-tests-XXXXXX").string();
  REQUIRE(mkdtemp(folder.data()) != nullptr);
  std::string command = "'" TESSERA_SOURCE_ROOT "/tests/support/run_tests.sh' 1";
  for (const std::string& body : bodies) {
    const fs::path program = fs::path(folder) / ("program" + std::to_string(&body - bodies.data()));
    std::ofstream(program) << "#!/bin/bash\n" << body << "\n";
    fs::permissions(program, fs::perms::owner_all);
    command += " " + program.string();
  }
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  REQUIRE(pipe != nullptr);
  Outcome outcome;
  char line[512];
  while (std::fgets(line, sizeof line, pipe)) outcome.last_line = line;
  outcome.status = WEXITSTATUS(pclose(pipe));
  fs::remove_all(folder);
  return outcome;
}

const std::string kTwoPass = "echo 2 0 >$TESSERA_TEST_COUNTS";

}  // namespace

TEST_CASE("the counts of all test programs are added up") {
  const Outcome good = run_tests({kTwoPass, kTwoPass});
  CHECK(good.last_line == "4 passed, 0 failed\n");
  CHECK(good.status == 0);
  const Outcome bad = run_tests({kTwoPass, "echo 3 2 >$TESSERA_TEST_COUNTS; exit 1"});
  CHECK(bad.last_line == "5 passed, 2 failed\n");
  CHECK(bad.status == 1);
}

TEST_CASE("a test program that crashes, hangs, stays silent or runs nothing has failed") {
  const std::string one_more = "2 passed, 1 failed\n";
  for (const std::string& body : {std::string("kill -SEGV $$"), std::string("sleep 60"), std::string("exit 0"),
                                  std::string("echo 0 0 >$TESSERA_TEST_COUNTS"), std::string("exit 3")}) {
    CAPTURE(body);
    const Outcome outcome = run_tests({body, kTwoPass});
    CHECK(outcome.last_line == one_more);
    CHECK(outcome.status == 1);
  }
  CHECK(run_tests({kTwoPass + "; exit 9"}).last_line == one_more);
  CHECK(run_tests({}).last_line == "0 passed, 1 failed\n");
}
