// The engine behind a cfg's [distributed] section.
#pragma once

#include "darknet/engine.hpp"

namespace tessera::distributed {

// Reads the section's settings, starts or connects the workers and redirects the wrapped layers. Errors name the cfg's
// line or the worker, and what to do.
base::Result<std::unique_ptr<darknet::Engine>> attach_distributed(network* net, const darknet::DistributedSection& section,
                                                                  const darknet::EngineOptions& options);

}  // namespace tessera::distributed
