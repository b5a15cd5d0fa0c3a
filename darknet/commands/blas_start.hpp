// OpenBLAS with the kernels that suit the processor.
#pragma once

namespace tessera::darknet {

// OpenBLAS reads OPENBLAS_CORETYPE while it is loaded, so a better choice than its own takes a new start of this program: the process
// becomes the same program with that variable. Says so in one line on stderr, or why the choice was taken back. Whoever has set
// OPENBLAS_CORETYPE keeps it, unless TESSERA_BLAS_CORE=auto. Processes started from here inherit the choice. To be called first in
// main().
void start_with_best_blas(char** argv);

}  // namespace tessera::darknet
