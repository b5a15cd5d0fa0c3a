#include "darknet/training/resume.hpp"

#include <filesystem>
#include <fstream>
#include <iterator>

#include "darknet/upstream/weights_file.hpp"

namespace tessera::darknet {
namespace {

// The first of them that is whole and that `wanted` accepts; those that are not whole are spoken of.
template <typename Wanted>
std::optional<Checkpoint> first_whole(const std::vector<std::string>& paths, std::string* chosen, const Wanted& wanted) {
  for (const std::string& path : paths) {
    base::Result<Checkpoint> checkpoint = read_checkpoint(path);
    if (!checkpoint) fmt::print(stderr, "warning: {}\n", checkpoint.error().message);
    if (!checkpoint || !wanted(*checkpoint)) continue;
    if (chosen) *chosen = path;
    return std::move(*checkpoint);
  }
  return std::nullopt;
}

// "backup/x_last.weights" may belong to one of backup/x_*.checkpoint.
std::optional<Checkpoint> checkpoint_of(const std::string& weights) {
  const std::filesystem::path path(weights);
  const std::string stem = path.stem().string();
  const std::vector<std::string> candidates = find_checkpoints(path.parent_path().string(), stem.substr(0, stem.rfind('_')));
  if (candidates.empty()) return std::nullopt;
  std::ifstream file(weights, std::ios::binary);
  const std::uint64_t hash = weights_bytes_hash(std::string{std::istreambuf_iterator<char>(file), {}});
  return first_whole(candidates, nullptr, [&](const Checkpoint& checkpoint) { return checkpoint.state.weights_hash == hash; });
}

}  // namespace

base::Result<ResumePoint> find_resume_point(const std::string& weights, bool clear, std::optional<std::uint64_t> seed,
                                            const std::optional<TrainingFiles>& resume) {
  ResumePoint point;
  point.weights = weights;
  if (resume) {
    point.checkpoint = first_whole(find_checkpoints(resume->folder, resume->name), &point.weights, [](const Checkpoint&) { return true; });
    point.from_checkpoint = point.checkpoint.has_value();
    if (!point.checkpoint) fmt::print("-resume: there is no checkpoint of {} in {} yet\n", resume->name, resume->folder);
  }
  if (!point.checkpoint && !clear && std::filesystem::is_regular_file(weights)) point.checkpoint = checkpoint_of(weights);
  if (point.checkpoint) point.state = point.checkpoint->state;
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
  std::unique_ptr<MemoryFile> inside;
  if (resume.from_checkpoint) {
    TESSERA_ASSIGN(inside, MemoryFile::create(resume.checkpoint->weights));
  }
  TESSERA_ASSIGN(const WeightsInfo info, load_weights_file(net, inside ? inside->path() : resume.weights));
  loaded.weights = resume.weights;
  loaded.weights_hash = info.hash;
  if (clear) *net->seen = 0;
  const std::size_t iteration = get_current_batch(net);
  if (iteration >= static_cast<std::size_t>(net->max_batches))
    return base::error(base::ErrorCode::kInvalidArgument,
                       "{}: has seen {} images, iteration {}, and max_batches={} is reached already; add -clear to "
                       "fine-tune from iteration 0, or raise max_batches",
                       resume.weights, info.seen, iteration, net->max_batches);
  if (resume.checkpoint) TESSERA_TRY(load_momentum(net, resume.checkpoint->momentum, resume.weights));
  const bool complete = info.layers == info.layers_total;
  fmt::print("weights of {}: {}, iteration {}{}\n", resume.weights,
             complete ? "all layers" : fmt::format("the first {} of {} layers with weights", info.layers, info.layers_total), iteration,
             clear               ? " (-clear)"
             : resume.checkpoint ? ", with momentum, chart and best mAP of its checkpoint"
                                 : "");
  return resume.checkpoint ? resume.state : fresh;
}

}  // namespace tessera::darknet
