// Which of its kernels OpenBLAS takes on a processor, and which it should. Debian's OpenBLAS takes its oldest or most general ones on
// processors that are newer than itself: a fifth of the speed on Intel's since Sapphire Rapids.
#pragma once

#include <string>
#include <string_view>

namespace tessera::kernels {

// The kernels that OpenBLAS took when it was loaded: "Haswell".
std::string blas_core();

// A value for OPENBLAS_CORETYPE that suits the processor better than `current`; empty when there is none. `cpuinfo`: what
// /proc/cpuinfo says, its first processor.
std::string better_blas_core(std::string_view current, std::string_view cpuinfo);

// Whether a small product equals its definition.
bool blas_is_right();

}  // namespace tessera::kernels
