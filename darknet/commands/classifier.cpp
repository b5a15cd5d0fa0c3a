// darknet classifier train, valid and predict: DATA CFG [WEIGHTS [IMAGE]]
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <numeric>
#include <optional>
#include <thread>

#include "base/clock.hpp"
#include "base/text.hpp"
#include "cfg/data_file.hpp"
#include "darknet/commands/commands.hpp"
#include "darknet/commands/engines.hpp"
#include "darknet/commands/test_inputs.hpp"
#include "darknet/commands/training_options.hpp"
#include "darknet/training/classifier_set.hpp"
#include "darknet/training/preflight.hpp"
#include "darknet/training/resume.hpp"
#include "darknet/training/training_loop.hpp"
#include "data/classifier_data.hpp"
#include "data/image_file.hpp"
#include "plugins/distill/distill_layer.hpp"
#include "plugins/distill/gkt.hpp"

namespace tessera::darknet {
namespace {

base::Status check_classifier(const LoadedNetwork& loaded) {
  const std::string& path = loaded.cfg.file.path;
  if (loaded.cfg.classes > 0)
    return base::error(base::ErrorCode::kInvalidArgument, "{}: is a detector's cfg; use `darknet detector`", path);
  if (loaded.net->c != 3 && loaded.net->c != 1)
    return base::error(base::ErrorCode::kInvalidArgument, "{}: channels={}, but pictures have 3, or 1 when grey; write channels=3 in [net]",
                       path, loaded.net->c);
  return {};
}

std::vector<std::size_t> best_classes(const float* scores, std::size_t classes, std::size_t count) {
  std::vector<std::size_t> order(classes);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
  order.resize(std::min(count, classes));
  return order;
}

struct Accuracy {
  std::size_t images = 0, first = 0, among = 0;
  double top_1() const { return images ? static_cast<double>(first) / static_cast<double>(images) : 0; }
  double top_k() const { return images ? static_cast<double>(among) / static_cast<double>(images) : 0; }
};

// Batch 1, the batch put back afterwards.
base::Result<Accuracy> measure_accuracy(network* net, const data::ImageSet& images, std::size_t classes, std::size_t top, bool print) {
  const int batch = net->batch;
  set_batch_network(net, 1);
  Accuracy accuracy;
  std::vector<float> planes(static_cast<std::size_t>(net->c) * net->w * net->h);
  base::Status status;
  for (std::size_t i = 0; i < images.size(); ++i) {
    const auto picture = images.picture(i);
    if (!picture) {
      status = tl::unexpected(picture.error());
      break;
    }
    data::center_crop(*picture, net->c, net->w, net->h, planes.data());
    const std::vector<std::size_t> best = best_classes(network_predict(net, planes.data()), classes, top);
    const auto wanted = static_cast<std::size_t>(images.class_of(i));
    ++accuracy.images;
    accuracy.first += best.front() == wanted;
    accuracy.among += std::find(best.begin(), best.end(), wanted) != best.end();
    if (print) fmt::print("{}: top 1: {:.6f}, top {}: {:.6f}\n", accuracy.images, accuracy.top_1(), top, accuracy.top_k());
  }
  set_batch_network(net, batch);
  if (!status) return tl::unexpected(status.error());
  return accuracy;
}

base::Result<std::size_t> top_count(const Arguments& arguments, const cfg::DataFile& data, std::size_t classes) {
  const long count = arguments.integer("top", arguments.integer("t", data.top));
  if (count < 1) return base::error(base::ErrorCode::kInvalidArgument, "-top {}: must be at least 1", count);
  return std::min(static_cast<std::size_t>(count), classes);
}

}  // namespace

namespace {

// A cfg with [gkt]: rounds between edges and a server instead of iterations.
base::Result<int> train_in_rounds(const Arguments& arguments, const cfg::DataFile& data_file, const std::string& cfg_path) {
  const auto seed = static_cast<std::uint64_t>(arguments.integer("seed", 1));
  TESSERA_ASSIGN(LoadedNetwork loaded, load_network_file(cfg_path, seed));
  TESSERA_ASSIGN(const std::vector<std::string> labels, read_labels_list(data_file, loaded.net->outputs));
  TESSERA_ASSIGN(const std::unique_ptr<data::ImageSet> train, open_set(data_file, "train", labels));
  TESSERA_ASSIGN(const std::unique_ptr<data::ImageSet> valid, open_set(data_file, "valid", labels));
  std::unique_ptr<data::ImageSet> test;
  if (!data_file.test.empty()) {
    auto opened = data::open_image_set(data_file.test, labels);
    if (!opened) return base::error(opened.error().code, "{}: {}", data_file.where("test"), opened.error().message);
    test = std::move(*opened);
  }
  TESSERA_TRY(check_backup_folder(data_file.backup, data_file.where("backup"), weights_bytes(loaded.net.get())));
  return distill::train_gkt(loaded, {data_file, cfg_path, seed, arguments.has("resume"), train.get(), valid.get(), test.get()});
}

}  // namespace

base::Result<int> run_classifier_train(const Arguments& arguments) {
  const std::string cfg_path = arguments.operand(1);
  TESSERA_ASSIGN(const cfg::DataFile data_file, cfg::read_data_file(arguments.operand(0)));
  if (const auto file = cfg::read_cfg_file(cfg_path); file && !file->sections.empty() && file->sections.back().name == "gkt")
    return train_in_rounds(arguments, data_file, cfg_path);
  TESSERA_ASSIGN(const ResumePoint resume, resume_point(arguments.operand(2), arguments, data_file.backup, cfg_path));
  TESSERA_ASSIGN(LoadedNetwork loaded, load_network_file(cfg_path, resume.state.seed, gradients(arguments)));
  network* net = loaded.net.get();
  distill::install(net, loaded.cfg);
  TESSERA_TRY(check_classifier(loaded));
  if (net->max_batches <= 0)
    return base::error(base::ErrorCode::kInvalidArgument, "{}:{}: has no max_batches=; say after how many iterations to stop", cfg_path,
                       loaded.cfg.file.sections.front().line);
  TESSERA_ASSIGN(const std::vector<std::string> labels, read_labels_list(data_file, net->outputs));
  TESSERA_ASSIGN(const std::unique_ptr<data::ImageSet> images, open_set(data_file, "train", labels));
  std::unique_ptr<data::ImageSet> valid;
  if (arguments.has("map")) {
    TESSERA_ASSIGN(valid, open_set(data_file, "valid", labels));
  }
  std::optional<data::PadCrop> pad_crop;
  if (!data_file.augment.empty()) {
    auto parsed = data::parse_pad_crop(data_file.augment);
    if (!parsed) return base::error(parsed.error().code, "{}: {}", data_file.where("augment"), parsed.error().message);
    pad_crop = *parsed;
  }
  TESSERA_TRY(check_backup_folder(data_file.backup, data_file.where("backup"), weights_bytes(net)));
  TESSERA_ASSIGN(const FolderLock lock, FolderLock::take(data_file.backup, base::base_name(cfg_path)));
  if (net->random) TESSERA_TRY(check_resizable(loaded.cfg));
  fmt::print("preflight: {} training images of {} classes, backup in {}\n", images->size(), labels.size(), data_file.backup);
  TESSERA_ASSIGN(TrainingState state, start_from(loaded, resume, arguments.has("clear")));
  fmt::print("Learning Rate: {:g}, Momentum: {:g}, Decay: {:g}\n", net->learning_rate, net->momentum, net->decay);

  TESSERA_ASSIGN(const std::unique_ptr<Engine> engine, attach(net, loaded.cfg.distributed, engine_options(arguments, state.seed)));
  const data::ClassifierAugmentation augmentation{net->min_ratio, net->max_ratio,  net->angle,    net->aspect,
                                                  net->hue,       net->saturation, net->exposure, net->center != 0};
  data::ClassifierData samples(*images, augmentation, pad_crop, state.seed);
  const std::uint64_t rows = static_cast<std::uint64_t>(net->batch) * static_cast<std::uint64_t>(net->subdivisions);

  TrainingOptions options = training_options(arguments, data_file.backup, cfg_path, state.seed);
  options.test_every = test_interval(arguments, images->size(), rows);
  options.precision_name = "top-1 accuracy";
  options.truth_columns = net->truths;
  if (net->random) options.sizes = cfg::multi_scale_sizes(loaded.cfg);
  TrainingHooks hooks;
  hooks.make = [&](std::uint64_t sample, const data::BatchShape& shape, float* input, float* truth) {
    return samples.make(sample, shape, input, truth);
  };
  hooks.problems = [&] {
    std::vector<std::string> lines = samples.new_problems();
    std::ofstream list;
    if (!lines.empty()) list.open("bad.list", std::ios::app);
    for (const std::string& line : lines) list << line << '\n';
    return lines;
  };
  hooks.test = [&]() -> base::Result<double> {
    TESSERA_ASSIGN(const Accuracy accuracy, measure_accuracy(net, *valid, labels.size(), 1, false));
    return accuracy.top_1();
  };
  TrainingLoop loop(net, *engine, std::move(options), std::move(hooks), std::move(state));
  return loop.run_and_detach();
}

base::Result<int> run_classifier_valid(const Arguments& arguments) {
  TESSERA_ASSIGN(const cfg::DataFile data_file, cfg::read_data_file(arguments.operand(0)));
  TESSERA_ASSIGN(const LoadedNetwork loaded, load_network_for_test(arguments.operand(1), arguments.operand(2), arguments));
  TESSERA_TRY(check_classifier(loaded));
  TESSERA_ASSIGN(const std::vector<std::string> labels, read_labels_list(data_file, loaded.net->outputs));
  TESSERA_ASSIGN(const std::unique_ptr<data::ImageSet> images, open_set(data_file, "valid", labels));
  TESSERA_ASSIGN(const std::size_t top, top_count(arguments, data_file, labels.size()));
  TESSERA_TRY(measure_accuracy(loaded.net.get(), *images, labels.size(), top, true));
  return 0;
}

base::Result<int> run_classifier_predict(const Arguments& arguments) {
  TESSERA_ASSIGN(const cfg::DataFile data_file, cfg::read_data_file(arguments.operand(0)));
  TESSERA_ASSIGN(const LoadedNetwork loaded, load_network_for_test(arguments.operand(1), arguments.operand(2), arguments));
  network* net = loaded.net.get();
  TESSERA_TRY(check_classifier(loaded));
  TESSERA_ASSIGN(const std::vector<std::string> names, cfg::read_names(data_file, net->outputs));
  TESSERA_ASSIGN(const std::size_t top, top_count(arguments, data_file, names.size()));
  TESSERA_ASSIGN(const std::vector<std::string> images, images_to_test(arguments.operand(3), arguments));
  std::vector<float> planes(static_cast<std::size_t>(3) * net->w * net->h);
  for (const std::string& path : images) {
    TESSERA_ASSIGN(const cv::Mat picture, data::read_image(path));
    data::letterbox(net->c == 1 ? data::grey_picture(picture) : picture, net->w, net->h, planes.data());
    const base::TimePoint start = base::Clock::now();
    const float* scores = network_predict(net, planes.data());
    fmt::print("{}: Predicted in {:.6f} seconds.\n", path, base::seconds_between(start, base::Clock::now()));
    for (const std::size_t c : best_classes(scores, names.size(), top)) fmt::print("{:5.2f}%: {}\n", 100 * scores[c], names[c]);
  }
  return 0;
}

}  // namespace tessera::darknet
