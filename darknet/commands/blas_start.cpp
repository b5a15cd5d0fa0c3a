#include "darknet/commands/blas_start.hpp"

#include <fmt/format.h>
#include <strings.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "kernels/blas_core.hpp"

namespace tessera::darknet {
namespace {

constexpr const char* kCore = "OPENBLAS_CORETYPE";
constexpr const char* kWish = "TESSERA_BLAS_CORE";    // auto, or unset
constexpr const char* kBefore = "TESSERA_BLAS_FROM";  // between the two starts: the kernels OpenBLAS took by itself

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

// Comes back only when the program cannot be run again, under an emulator for example.
void start_again(char** argv) {
  std::error_code unreadable;
  const std::string program = std::filesystem::read_symlink("/proc/self/exe", unreadable).string();
  if (!unreadable) ::execv(program.c_str(), argv);
}

std::string cpuinfo() {
  std::ifstream file("/proc/cpuinfo");
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// The second start.
void check_choice(char** argv, const std::string& before) {
  const std::string chosen = variable(kCore), core = kernels::blas_core();
  ::unsetenv(kBefore);
  if (strcasecmp(core.c_str(), chosen.c_str()) == 0 && kernels::blas_is_right()) {
    fmt::print(stderr, "OpenBLAS: {} kernels instead of {}, which it takes for this processor ({} overrides)\n", core, before, kCore);
    return;
  }
  fmt::print(stderr, "OpenBLAS: its {} kernels are not to be had here or give wrong products; it keeps {}\n", chosen, before);
  ::setenv(kCore, before.c_str(), 1);
  start_again(argv);
}

}  // namespace

void start_with_best_blas(char** argv) {
  const std::string before = variable(kBefore), wish = variable(kWish);
  ::unsetenv(kWish);
  if (!before.empty()) return check_choice(argv, before);
  if (!variable(kCore).empty() && wish != "auto") return;
  const std::string current = kernels::blas_core(), better = kernels::better_blas_core(current, cpuinfo());
  if (better.empty()) return;
  const std::string users = variable(kCore);
  ::setenv(kCore, better.c_str(), 1);
  ::setenv(kBefore, current.c_str(), 1);
  start_again(argv);
  ::unsetenv(kBefore);
  users.empty() ? ::unsetenv(kCore) : ::setenv(kCore, users.c_str(), 1);
}

}  // namespace tessera::darknet
