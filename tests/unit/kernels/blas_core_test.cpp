#include "kernels/blas_core.hpp"

#include <doctest/doctest.h>

using namespace tessera::kernels;

TEST_CASE("the best kernels of OpenBLAS for a processor") {
  const std::string avx512 = "processor\t: 0\nmodel\t\t: 207\nflags\t\t: fpu fma avx avx2 avx512f avx512dq avx512bw avx512vl\n\n";
  const std::string avx2 = "flags\t\t: fpu fma avx avx2\n", avx512_in_part = "flags : fma avx2 avx512f\n", old = "flags : fpu sse4_2\n";
  CHECK(better_blas_core("Prescott", avx512) == "SkylakeX");
  CHECK(better_blas_core("Haswell", avx512) == "SkylakeX");
  CHECK(better_blas_core("SkylakeX", avx512) == "");
  CHECK(better_blas_core("Cooperlake", avx512) == "");
  CHECK(better_blas_core("Zen", avx512) == "");
  CHECK(better_blas_core("Prescott", avx2) == "Haswell");
  CHECK(better_blas_core("Nehalem", avx512_in_part) == "Haswell");
  CHECK(better_blas_core("Haswell", avx2) == "");
  CHECK(better_blas_core("Prescott", old) == "");
  const std::string pi5 = "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n";
  const std::string pi4 = "CPU part\t: 0xd08\n";
  CHECK(better_blas_core("armv8", pi5) == "NEOVERSEN1");
  CHECK(better_blas_core("ARMV8", pi5) == "NEOVERSEN1");
  CHECK(better_blas_core("neoversen1", pi5) == "");
  CHECK(better_blas_core("cortexa72", pi4) == "");
  CHECK(better_blas_core("ARMV8", pi4) == "");
  for (const char* nothing : {"", "flags", "flags\n", "CPU part", ":\n:"}) CHECK(better_blas_core("Prescott", nothing) == "");
}

TEST_CASE("OpenBLAS's products are right here") {
  CHECK_FALSE(blas_core().empty());
  CHECK(blas_is_right());
}
