#include "darknet/training/resume.hpp"

#include <filesystem>

#include "darknet/upstream/weights_file.hpp"

namespace tessera::darknet {

base::Result<ResumePoint> find_resume_point(const std::string& weights, bool clear, std::optional<std::uint64_t> seed) {
  ResumePoint point;
  point.weights = weights;
  if (!weights.empty() && !clear) {
    const std::string path = sidecar_path(weights, ".state");
    if (std::filesystem::exists(path)) {
      TESSERA_ASSIGN(point.state, load_training_state(path));
      point.has_state = true;
    }
  }
  if (seed) point.state.seed = *seed;
  return point;
}

base::Result<TrainingState> start_from(LoadedNetwork& loaded, const ResumePoint& resume, bool clear) {
  network* net = loaded.net.get();
  TrainingState fresh;
  fresh.seed = resume.state.seed;
  if (resume.weights.empty()) {
    fmt::print("training from random weights, seed {}\n", fresh.seed);
    return fresh;
  }
  TESSERA_ASSIGN(const WeightsInfo info, load_weights_file(net, resume.weights));
  loaded.weights = resume.weights;
  loaded.weights_hash = info.hash;
  if (clear) *net->seen = 0;
  const std::size_t iteration = get_current_batch(net);
  if (iteration >= static_cast<std::size_t>(net->max_batches))
    return base::error(base::ErrorCode::kInvalidArgument,
                       "{}: has seen {} images, iteration {}, and max_batches={} is reached already; add -clear to "
                       "fine-tune from iteration 0, or raise max_batches",
                       resume.weights, info.seen, iteration, net->max_batches);

  TrainingState state = fresh;
  std::string momentum = "no momentum";
  if (resume.has_state && resume.state.weights_hash == info.hash) {
    state = resume.state;
    const std::string path = sidecar_path(resume.weights, ".momentum");
    if (std::filesystem::exists(path)) {
      TESSERA_TRY(load_momentum_file(net, path, info.hash));
      momentum = "momentum";
    }
  }
  const bool complete = info.layers == info.layers_total;
  fmt::print("weights of {}: {}, iteration {}{}\n", resume.weights,
             complete ? "all layers" : fmt::format("the first {} of {} layers with weights", info.layers, info.layers_total), iteration,
             clear ? " (-clear)"
             : resume.has_state && resume.state.weights_hash == info.hash
                 ? fmt::format(", with {}, chart and best mAP of {}", momentum, sidecar_path(resume.weights, ".state"))
             : resume.has_state ? fmt::format("; {} belongs to other weights and is not used", sidecar_path(resume.weights, ".state"))
                                : "");
  return state;
}

}  // namespace tessera::darknet
