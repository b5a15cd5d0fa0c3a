#include "kernels/blas_core.hpp"

#include <cblas.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

namespace tessera::kernels {
namespace {

// The words after "key :" in the first line that begins so.
std::string_view line_of(std::string_view cpuinfo, std::string_view key) {
  for (std::size_t at = 0; at < cpuinfo.size();) {
    const std::size_t end = std::min(cpuinfo.find('\n', at), cpuinfo.size());
    const std::string_view line = cpuinfo.substr(at, end - at);
    if (line.starts_with(key)) return line.substr(std::min(line.find(':'), line.size()));
    at = end + 1;
  }
  return {};
}

bool has_words(std::string_view line, std::initializer_list<std::string_view> words) {
  const std::string padded = ' ' + std::string(line) + ' ';
  return std::all_of(words.begin(), words.end(), [&](auto word) { return padded.find(' ' + std::string(word) + ' ') != padded.npos; });
}

bool is_one_of(std::string_view core, std::initializer_list<std::string_view> cores) {
  return std::find(cores.begin(), cores.end(), core) != cores.end();
}

struct ArmCore {
  std::string_view part, core;  // as /proc/cpuinfo and OpenBLAS name it
};
// Processors that OpenBLAS 0.3.21 does not know, and the nearest of those that it does.
constexpr std::array<ArmCore, 5> kArmCores{{{"0xd05", "CORTEXA53"},     // A55
                                            {"0xd0a", "CORTEXA73"},     // A75
                                            {"0xd0b", "NEOVERSEN1"},    // A76, the Pi 5's: N1 is its server form
                                            {"0xd0d", "NEOVERSEN1"},    // A77
                                            {"0xd41", "NEOVERSEN1"}}};  // A78

}  // namespace

std::string blas_core() { return openblas_get_corename(); }

std::string better_blas_core(std::string_view current, std::string_view cpuinfo) {
  const std::string_view flags = line_of(cpuinfo, "flags");
  const bool wide = is_one_of(current, {"SkylakeX", "Cooperlake", "Sapphirerapids"});
  // AMD's processors gain nothing from 512 bits: theirs stay as they are.
  if (wide || current == "Zen") return {};
  if (has_words(flags, {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma"})) return "SkylakeX";
  if (has_words(flags, {"avx2", "fma"})) return current == "Haswell" || current == "Excavator" ? "" : "Haswell";
  if (current != "ARMV8" && current != "armv8") return {};
  const std::string_view part = line_of(cpuinfo, "CPU part");
  for (const ArmCore& arm : kArmCores)
    if (has_words(part, {arm.part})) return std::string(arm.core);
  return {};
}

bool blas_is_right() {
  // Odd sizes reach the ends of every block; values are small whole numbers, so sums are exact in any order.
  constexpr int kRows = 67, kColumns = 53, kDepth = 131;
  std::vector<float> a(kRows * kDepth), b(kDepth * kColumns), c(kRows * kColumns, NAN);
  for (std::size_t i = 0; i < a.size(); ++i) a[i] = static_cast<float>(static_cast<int>(i * 7 % 19) - 9);
  for (std::size_t i = 0; i < b.size(); ++i) b[i] = static_cast<float>(static_cast<int>(i * 5 % 23) - 11);
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, kRows, kColumns, kDepth, 1, a.data(), kDepth, b.data(), kColumns, 0, c.data(),
              kColumns);
  for (int row = 0; row < kRows; ++row)
    for (int column = 0; column < kColumns; ++column) {
      float sum = 0;
      for (int k = 0; k < kDepth; ++k) sum += a[row * kDepth + k] * b[k * kColumns + column];
      if (!(c[row * kColumns + column] == sum)) return false;
    }
  return true;
}

}  // namespace tessera::kernels
