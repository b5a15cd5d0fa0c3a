// The backend for a network, chosen by trying.
#pragma once

#include <span>
#include <string>

#include "kernels/convolution.hpp"

namespace tessera::kernels {

struct BackendChoice {
  Backend backend = Backend::kReference;
  enum class Origin {
    kOnlyOne,    // no other is built in, kReference apart, or all compute these layers alike
    kMeasured,   // just now
    kRemembered  // measured by an earlier run
  } origin = Origin::kOnlyOne;
};

// The built backend that computes one sample of all layers fastest on this machine with the pool's threads: forward
// passes, and for `training` also both gradients (that of the first layer's input apart). The layers are measured on
// random data, the largest first, until `budget_seconds` are over (the layer that is being measured then is finished). The
// later one of built_backends() is taken unless another is clearly faster, so that noise does not decide.
//
// Backends round differently, so the choice must stay the same from run to run: it is kept in `cache_file`, by CPU, threads,
// library versions and layers. A file that cannot be read or is damaged counts as empty; one that cannot be written is left
// alone, and the next run measures again. Empty: nothing is kept. Folders are made as needed.
BackendChoice choose_backend(std::span<const ConvolutionShape> layers, bool training, base::ThreadPool& pool, const std::string& cache_file,
                             double budget_seconds = 0.5);

}  // namespace tessera::kernels
