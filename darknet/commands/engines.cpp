#include "darknet/commands/engines.hpp"

#include "darknet/commands/cache_file.hpp"
#include "darknet/upstream/dialect.hpp"
#include "darknet/upstream/stock_engine.hpp"
#include "darknet/upstream/weights_file.hpp"
#include "plugins/distributed/distributed_engine.hpp"

namespace tessera::darknet {

EngineOptions engine_options(const Arguments& arguments, std::uint64_t seed) {
  return {arguments.program, arguments.has("insecure"), arguments.has("verbose"), seed, arguments.text("backend"), backend_cache_file()};
}

base::Result<std::unique_ptr<Engine>> attach(network* net, const cfg::DistributedSection& section, const EngineOptions& options) {
  if (options.backend == kStockBackend) {
    if (section.present) fmt::print(stderr, "-backend stock: [distributed] has no effect, everything runs on upstream's code\n");
    return make_stock_engine();
  }
  TESSERA_ASSIGN(std::unique_ptr<Engine> engine, distributed::attach_engine(net, section, options));
  if (!engine) engine = make_stock_engine();
  return engine;
}

base::Result<std::unique_ptr<Inference>> attach_inference(network* net, const cfg::DistributedSection& section,
                                                          const EngineOptions& options) {
  if (options.backend == kStockBackend) return std::unique_ptr<Inference>();
  return distributed::attach_inference(net, section, options);
}

Gradients gradients(const Arguments& arguments) {
  const bool stock = arguments.has("stock_gradients");
  fmt::print("{}\n", stock ? "gradients: as upstream's CPU code has them (1x1 convolutions and reorg replace what others add)"
                           : "gradients: the true ones, everywhere added up (-stock_gradients: as upstream's CPU code has them)");
  return stock ? Gradients::kStock : Gradients::kTrue;
}

base::Result<LoadedNetwork> load_network_for_test(const std::string& cfg, const std::string& weights, const Arguments& arguments) {
  TESSERA_ASSIGN(LoadedNetwork loaded, load_network_for_one_picture(cfg));
  if (arguments.has("letter_box")) {
    NetSettings settings = settings_of(*loaded.net);
    settings.stretch = false;
    set_settings(*loaded.net, settings);
  }
  LoadRange all;
  all.complete = true;
  TESSERA_ASSIGN(const WeightsInfo info, load_weights_file(loaded.net.get(), weights, all));
  loaded.weights_hash = info.hash;
  loaded.weights = weights;
  TESSERA_ASSIGN(loaded.inference, attach_inference(loaded.net.get(), loaded.cfg.distributed, engine_options(arguments, 0)));
  return loaded;
}

}  // namespace tessera::darknet
