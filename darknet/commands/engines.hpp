// Where networks and what computes them are joined: upstream's code, our kernels in this process, workers.
#pragma once

#include <memory>
#include <string>

#include "base/result.hpp"
#include "darknet/commands/arguments.hpp"
#include "darknet/training/engine.hpp"
#include "darknet/upstream/network_file.hpp"

namespace tessera::darknet {

// From the command line.
EngineOptions engine_options(const Arguments& arguments, std::uint64_t seed);

// Attaches an engine to a parsed network whose weights and momentum are loaded already. What a [distributed] section
// does not wrap runs on our kernels in this process as far as it can; with kStockBackend everything runs on upstream's
// train_network(). Says on stderr what runs where.
[[nodiscard]] base::Result<std::unique_ptr<Engine>> attach(network* net, const cfg::DistributedSection& section,
                                                           const EngineOptions& options);

// Attaches to a parsed network of batch 1 whose weights are loaded. Null when everything runs on upstream's code.
[[nodiscard]] base::Result<std::unique_ptr<Inference>> attach_inference(network* net, const cfg::DistributedSection& section,
                                                                        const EngineOptions& options);

// As -stock_gradients says; says on stdout which they are.
Gradients gradients(const Arguments& arguments);

// load_network_file() with weights for every layer and batch 1, for tests; they run on our kernels unless -backend says otherwise.
[[nodiscard]] base::Result<LoadedNetwork> load_network_for_test(const std::string& cfg, const std::string& weights,
                                                                const Arguments& arguments);

}  // namespace tessera::darknet
