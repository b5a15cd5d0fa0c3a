// darknet detector train DATA CFG [WEIGHTS]
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>

#include "base/text.hpp"
#include "cfg/data_file.hpp"
#include "darknet/commands/commands.hpp"
#include "darknet/commands/engines.hpp"
#include "darknet/commands/training_options.hpp"
#include "darknet/training/evaluate.hpp"
#include "darknet/training/preflight.hpp"
#include "darknet/training/resume.hpp"
#include "darknet/training/training_loop.hpp"
#include "darknet/upstream/dialect.hpp"
#include "darknet/upstream/network_file.hpp"
#include "data/detection_data.hpp"

namespace tessera::darknet {
namespace {

// A detector's head as the data needs it.
base::Status check_head(const LoadedNetwork& loaded) {
  const std::string& path = loaded.cfg.file.path;
  const layer* head = detection_head(loaded.net.get());
  if (loaded.net->c != 3)
    return base::error(base::ErrorCode::kInvalidArgument, "{}: channels={}, but pictures have 3; write channels=3 in [net]", path,
                       loaded.net->c);
  if (head->type == DETECTION)
    return base::error(base::ErrorCode::kInvalidArgument, "{}: a [detection] layer (YOLO v1) is trained with `darknet yolo train`", path);
  if (head->coords > 4)
    return base::error(base::ErrorCode::kInvalidArgument, "{}: coords={} (instance masks) cannot be trained; write coords=4", path,
                       head->coords);
  if (loaded.net->max_batches <= 0)
    return base::error(base::ErrorCode::kInvalidArgument, "{}:{}: has no max_batches=; say after how many iterations to stop", path,
                       loaded.cfg.file.sections.front().line);
  return {};
}

// Objects of one picture that every head can be told.
int most_boxes(const network* net) {
  int most = std::numeric_limits<int>::max();
  for (int i = 0; i < net->n; ++i) {
    const layer& l = net->layers[i];
    if (l.type == YOLO || l.type == REGION) most = std::min({most, l.max_boxes, l.truths / (l.coords > 0 ? l.coords + 1 : 5)});
  }
  return most;
}

void append_line(const std::string& path, const std::string& line) {
  std::ofstream file(path, std::ios::app);
  file << line << '\n';
}

}  // namespace

base::Result<int> run_detector_train(const Arguments& arguments) {
  const std::string cfg_path = arguments.operand(1);
  TESSERA_ASSIGN(const cfg::DataFile data_file, cfg::read_data_file(arguments.operand(0)));
  TESSERA_ASSIGN(const ResumePoint resume, resume_point(arguments.operand(2), arguments, data_file.backup, cfg_path));
  TESSERA_ASSIGN(LoadedNetwork loaded, load_network_file(cfg_path, resume.state.seed, gradients(arguments)));
  network* net = loaded.net.get();

  PreflightInput preflight_input{&loaded.cfg, &data_file, arguments.has("map"), weights_bytes(net), most_boxes(net)};
  TESSERA_ASSIGN(const PreflightResult preflight, preflight_detector(preflight_input));
  TESSERA_ASSIGN(const FolderLock lock, FolderLock::take(data_file.backup, base::base_name(cfg_path)));
  TESSERA_TRY(check_head(loaded));
  const layer* head = detection_head(net);
  const bool multi_scale = head->random != 0;
  if (multi_scale) TESSERA_TRY(check_resizable(loaded.cfg));
  for (const std::string& warning : preflight.warnings) fmt::print(stderr, "warning: {}\n", warning);
  fmt::print("{}\n", preflight.summary);

  TESSERA_ASSIGN(TrainingState state, start_from(loaded, resume, arguments.has("clear")));
  fmt::print("Learning Rate: {:g}, Momentum: {:g}, Decay: {:g}\n", net->learning_rate, net->momentum, net->decay);

  TESSERA_ASSIGN(const std::unique_ptr<Engine> engine, attach(net, loaded.cfg.distributed, engine_options(arguments, state.seed)));

  const NetSettings& settings = settings_of(*net);
  const data::DetectionAugmentation augmentation{head->jitter,  net->hue,         net->saturation,
                                                 net->exposure, settings.stretch, loaded.cfg.alexey && !settings.stretch,
                                                 settings.flip, settings.resize};
  data::DetectionData samples(preflight.train, loaded.cfg.classes, augmentation, state.seed);
  TrainingOptions options = training_options(arguments, data_file.backup, cfg_path, state.seed);
  options.test_every = test_interval(arguments, preflight.train.size(),
                                     static_cast<std::uint64_t>(net->batch) * static_cast<std::uint64_t>(net->subdivisions));
  options.truth_columns = head->truths;
  if (multi_scale) options.sizes = cfg::multi_scale_sizes(loaded.cfg);

  TrainingHooks hooks;
  hooks.make = [&](std::uint64_t sample, const data::BatchShape& shape, float* input, float* truth) {
    return samples.make(sample, shape, input, truth);
  };
  hooks.problems = [&] {
    std::vector<std::string> lines;
    for (const data::DetectionData::Problem& problem : samples.new_problems()) {
      append_line(std::filesystem::path(problem.path).extension() == ".txt" ? "bad_label.list" : "bad.list", problem.message);
      lines.push_back(problem.message + "; another picture is taken instead");
    }
    return lines;
  };
  hooks.test = [&]() -> base::Result<double> {
    observe::PrecisionSettings settings;
    settings.classes = loaded.cfg.classes;
    settings.iou_threshold = arguments.real("iou_thresh", settings.iou_threshold);
    settings.points = static_cast<int>(arguments.integer("points", settings.points));
    TESSERA_ASSIGN(const observe::Precision precision, evaluate_detector(net, preflight.valid, settings));
    return precision.mean_average_precision;
  };

  TrainingLoop loop(net, *engine, std::move(options), std::move(hooks), std::move(state));
  return loop.run_and_detach();
}

}  // namespace tessera::darknet
