// Which kernels OpenBLAS runs with, from start to start.
#include <doctest/doctest.h>

#include <fstream>
#include <sstream>

#include "kernels/blas_core.hpp"
#include "tests/support/training_run.hpp"

using namespace tessera::testing;

TEST_CASE("OpenBLAS's kernels are chosen by the processor; a user's own choice stays") {
  const TrainingFolder folder;
  std::ostringstream cpuinfo;
  cpuinfo << std::ifstream("/proc/cpuinfo").rdbuf();
  const std::string better = tessera::kernels::better_blas_core("Prescott", cpuinfo.str());
  const auto run = [&](const std::vector<std::string>& environment, const std::vector<std::string>& command) {
    std::vector<std::string> words{"env"};
    words.insert(words.end(), environment.begin(), environment.end());
    words.insert(words.end(), command.begin(), command.end());
    Process process(words, folder.path());
    CHECK(process.wait(60) == 0);
    return process.err();
  };
  const std::vector<std::string> help{darknet_program(), "help"};
  CHECK(run({"OPENBLAS_CORETYPE=Prescott"}, help) == "");
  // As where OpenBLAS takes them by itself.
  const std::string said = run({"OPENBLAS_CORETYPE=Prescott", "TESSERA_BLAS_CORE=auto"}, help);
  CHECK((said.find("OpenBLAS: " + better + " kernels instead of Prescott") != std::string::npos) == !better.empty());
  // A choice that does not stand its trial is taken back, once.
  const std::string back = run({"OPENBLAS_CORETYPE=NoSuchCore", "TESSERA_BLAS_FROM=Haswell"}, help);
  CHECK(back.find("it keeps Haswell") != std::string::npos);
}
