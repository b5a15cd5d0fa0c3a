// .ci/run: whatever fails, in the checks, the build or the tests, shows in its last line and its exit code.
#include <doctest/doctest.h>
#include <stdlib.h>
#include <sys/wait.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

namespace {

// The last line and the exit code when `make -k check` ends with `check`, and `make test` says `said` and ends with `test`.
std::string ci(int check, const std::string& said, int test) {
  std::string folder = (std::filesystem::temp_directory_path() / "tessera-ci-XXXXXX").string();
  REQUIRE(mkdtemp(folder.data()) != nullptr);
  std::ofstream(folder + "/make") << "#!/bin/bash\n[[ $* == *check* ]] && exit " << check << "\necho '" << said << "'; exit " << test
                                  << "\n";
  std::filesystem::permissions(folder + "/make", std::filesystem::perms::owner_all);
  FILE* pipe = popen(("PATH='" + folder + "':$PATH " TESSERA_SOURCE_ROOT "/.ci/run 2>&1").c_str(), "r");
  REQUIRE(pipe != nullptr);
  char line[512];
  std::string last;
  while (std::fgets(line, sizeof line, pipe)) last = line;
  const int status = WEXITSTATUS(pclose(pipe));
  std::filesystem::remove_all(folder);
  return last + std::to_string(status);
}

}  // namespace

TEST_CASE("continuous integration counts a failing check as one more failure") {
  CHECK(ci(0, "5 passed, 0 failed", 0) == "5 passed, 0 failed\n0");
  CHECK(ci(1, "5 passed, 0 failed", 0) == "5 passed, 1 failed\n1");
  CHECK(ci(0, "5 passed, 2 failed", 1) == "5 passed, 2 failed\n1");
  CHECK(ci(1, "5 passed, 2 failed", 1) == "5 passed, 3 failed\n1");
  CHECK(ci(0, "no rule", 2) == "0 passed, 1 failed\n2");
  CHECK(ci(1, "no rule", 2) == "0 passed, 2 failed\n1");
}
