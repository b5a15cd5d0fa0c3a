// Networks on our kernels: on the workers of a cfg's [distributed] section, and in this process.
#pragma once

#include "darknet/training/engine.hpp"

namespace tessera::distributed {

// Reads the section's settings (a section that is not present has none), starts or connects its workers and redirects its
// layers; all others that can be wrapped with results equal to upstream's run on the same kernels in this process. Null
// when there is no section and no such layer. Errors name the cfg's line or the worker, and what to do; without a section
// there are none but a bad -backend.
base::Result<std::unique_ptr<darknet::Engine>> attach_engine(network* net, const cfg::DistributedSection& section,
                                                             const darknet::EngineOptions& options);

// The same layers for inference, all in this process: workers, grid and groups of the section do not matter.
base::Result<std::unique_ptr<darknet::Inference>> attach_inference(network* net, const cfg::DistributedSection& section,
                                                                   const darknet::EngineOptions& options);

}  // namespace tessera::distributed
