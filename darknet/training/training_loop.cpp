#include "darknet/training/training_loop.hpp"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <thread>

#include "base/text.hpp"
#include "darknet/training/exit_codes.hpp"
#include "darknet/training/interrupt.hpp"
#include "darknet/upstream/dialect.hpp"
#include "darknet/upstream/weights_file.hpp"
#include "darknet/upstream/weights_layout.hpp"
#include "data/sample_rng.hpp"
#include "observe/log_line.hpp"
#include "observe/progress.hpp"

namespace tessera::darknet {
namespace {

constexpr std::uint64_t kSaveEvery = 100, kTableEvery = 100, kResizeEvery = 10;
constexpr std::size_t kChartPoints = 4000;
constexpr base::Milliseconds kLastSavePatience{60000};         // at the end, when a disk is full
constexpr double kLiveSeconds = 0.5, kLiveSecondsInFile = 30;  // between two live lines: on a terminal, else

int terminal_columns() {
  winsize size{};
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col - 1 : 0;
}

}  // namespace

cfg::InputSize multi_scale_size(std::uint64_t seed, std::uint64_t iteration, std::uint64_t iterations, cfg::InputSize own,
                                const std::vector<cfg::InputSize>& sizes) {
  const std::uint64_t last = std::min<std::uint64_t>(200, iterations / 10);
  if (sizes.empty() || iteration < kResizeEvery || iteration + last >= iterations) return own;
  data::SampleRng rng(seed, iteration / kResizeEvery, 0x512E);
  return sizes[rng.below(sizes.size())];
}

base::Status check_resizable(const cfg::Cfg& cfg) {
  static const std::vector<std::string> kResizable = {"convolutional", "crop",     "maxpool", "region",  "yolo",          "route",
                                                      "shortcut",      "upsample", "reorg",   "avgpool", "normalization", "cost"};
  for (const cfg::LayerShape& layer : cfg.layers)
    if (std::find(kResizable.begin(), kResizable.end(), layer.type) == kResizable.end())
      return base::error(base::ErrorCode::kInvalidArgument,
                         "{}:{}: random=1 resizes the network, but [{}] has a fixed size; write random=0", cfg.file.path, layer.line,
                         layer.type);
  return {};
}

std::uint64_t weights_bytes(const network* net) {
  std::uint64_t bytes = 0;
  for (int i = 0; i < net->n; ++i)
    for (const WeightBlock& block : weight_blocks(net->layers[i], LayoutUse::kSave)) bytes += block.count * sizeof(float);
  return bytes;
}

bool numbered_save_due(std::uint64_t iteration) { return iteration > 0 && iteration % (iteration < 10000 ? 1000 : 10000) == 0; }

TrainingLoop::TrainingLoop(network* net, Engine& engine, TrainingOptions options, TrainingHooks hooks, TrainingState state)
    : net_(net),
      engine_(engine),
      options_(std::move(options)),
      hooks_(std::move(hooks)),
      state_(std::move(state)),
      cfg_width_(net_->w),
      cfg_height_(net_->h),
      saver_([](const std::string& line) { fmt::print(stderr, "{}warning: {}\n", ::isatty(STDERR_FILENO) ? "\r\033[K" : "", line); }) {}

std::string TrainingLoop::weights_path(const std::string& suffix) const {
  return fmt::format("{}/{}_{}.weights", options_.backup, options_.name, suffix);
}

base::Status TrainingLoop::open_log() {
  if (options_.log.empty()) return {};
  log_.reset(std::fopen(options_.log.c_str(), "a"));
  if (!log_) return base::error(base::ErrorCode::kIo, "{}: cannot write the log: {}", options_.log, std::strerror(errno));
  return {};
}

data::BatchShape TrainingLoop::shape_at(std::uint64_t iteration) const {
  const cfg::InputSize size =
      multi_scale_size(options_.seed, iteration, static_cast<std::uint64_t>(net_->max_batches), {cfg_width_, cfg_height_}, options_.sizes);
  return {net_->batch * net_->subdivisions, size.width, size.height, net_->c, options_.truth_columns};
}

base::Status TrainingLoop::resize_to(int width, int height) {
  if (net_->w == width && net_->h == height) return {};
  if (options_.verbose) fmt::print(stderr, "input size {}x{}\n", width, height);
  if (resize_network(net_, width, height) != 0)
    return base::error(base::ErrorCode::kInvalidArgument, "the network cannot be resized to {}x{}", width, height);
  return {};
}

base::Result<int> TrainingLoop::run() {
  TESSERA_TRY(open_log());
  const InterruptGuard guard;
  const auto iterations = static_cast<std::uint64_t>(net_->max_batches);
  first_iteration_ = get_current_batch(net_);
  loader_.emplace(hooks_.make, options_.loader_threads);
  if (first_iteration_ < iterations) loader_->request(first_iteration_, shape_at(first_iteration_));
  engine_.set_again([this](std::uint64_t iteration) { return again(iteration); });
  live_shown_ = table_shown_ = base::Clock::now();

  while (get_current_batch(net_) < iterations) {
    TESSERA_ASSIGN(const bool good, step());
    if (!good) return kExitNotANumber;
    const std::uint64_t iteration = get_current_batch(net_);
    const bool ends = iteration >= iterations;
    if (options_.test_every > 0 && (ends || iteration % options_.test_every == 0)) TESSERA_TRY(test(iteration));
    TESSERA_TRY(save_as_planned(iteration));
    if (InterruptGuard::interrupted() && !ends) {
      TESSERA_TRY(save_last());
      TESSERA_TRY(saver_.flush(base::Deadline::after(kLastSavePatience)));
      fmt::print(stderr, "interrupted: {} continues from iteration {}\n", weights_path("last"), iteration);
      return kExitInterrupted;
    }
  }
  loader_.reset();
  TESSERA_TRY(resize_to(cfg_width_, cfg_height_));
  TESSERA_TRY(save_last());
  TESSERA_TRY(save("final"));
  draw_chart();
  TESSERA_TRY(saver_.flush(base::Deadline::after(kLastSavePatience)));
  fmt::print("saved {}\n", weights_path("final"));
  std::fflush(stdout);
  return 0;
}

base::Result<int> TrainingLoop::run_and_detach() {
  base::Result<int> outcome = run();
  loader_.reset(), again_.reset();
  if (const base::Status saved = saver_.flush(base::Deadline::after(kLastSavePatience)); !saved && outcome)
    outcome = tl::unexpected(saved.error());
  const base::Status detached = engine_.detach(net_);
  if (outcome && !detached) return tl::unexpected(detached.error());
  return outcome;
}

// One iteration. False: the loss is no number any more.
base::Result<bool> TrainingLoop::step() {
  const base::TimePoint start = base::Clock::now();
  const std::uint64_t before = get_current_batch(net_);
  TESSERA_ASSIGN(const data::Batch batch, loader_->take());
  if (before + 1 < static_cast<std::uint64_t>(net_->max_batches)) loader_->request(before + 1, shape_at(before + 1));
  for (const std::string& problem : hooks_.problems()) fmt::print(stderr, "warning: {}\n", problem);
  TESSERA_TRY(prepare(batch.shape, before));
  const auto trained = engine_.train_batch(net_, batch, [this] { return loader_->peek(); });
  if (!trained && trained.error().code != base::ErrorCode::kNotFinite) return tl::unexpected(trained.error());
  const std::uint64_t iteration = get_current_batch(net_);
  const float loss = trained.value_or(std::numeric_limits<float>::quiet_NaN());
  if (!std::isfinite(loss)) {
    const std::string why = trained ? loss_text(loss) : trained.error().message;
    fmt::print(stderr, "{}error: {}\n", ::isatty(STDERR_FILENO) ? "\r\033[K" : "", diverged(iteration, why));
    return false;
  }
  state_.average_loss = state_.average_loss < 0 ? loss : state_.average_loss * 0.9 + loss * 0.1;
  state_.loss.push_back({iteration, state_.average_loss});
  observe::thin(state_.loss, kChartPoints);
  report(iteration, loss, get_current_rate(net_), base::seconds_between(start, base::Clock::now()));
  return true;
}

base::Status TrainingLoop::prepare(const data::BatchShape& shape, std::uint64_t iteration) {
  TESSERA_TRY(resize_to(shape.width, shape.height));
  if (const NetSettings& settings = settings_of(*net_); settings.cyclic_rate)
    net_->learning_rate = cyclic_rate(settings, static_cast<std::int64_t>(iteration) + 1);
  std::srand(static_cast<unsigned>(options_.seed + iteration));  // dropout: the same after a resume
  return {};
}

// The batch of an iteration that was done before: samples depend on their number only.
base::Result<data::Batch> TrainingLoop::again(std::uint64_t iteration) {
  const data::BatchShape shape = shape_at(iteration);
  if (!again_) again_.emplace(hooks_.make, options_.loader_threads);
  again_->request(iteration, shape);
  TESSERA_TRY(prepare(shape, iteration));
  return again_->take();
}

void TrainingLoop::report(std::uint64_t iteration, float loss, double rate, double seconds) {
  computing_seconds_ += seconds;
  const double per_iteration = computing_seconds_ / static_cast<double>(iteration - first_iteration_);
  const double left = per_iteration * static_cast<double>(static_cast<std::uint64_t>(net_->max_batches) - iteration);
  const auto rows = static_cast<std::uint64_t>(net_->batch) * static_cast<std::uint64_t>(net_->subdivisions);
  const std::string line = observe::log_line({iteration, loss, state_.average_loss, rate, seconds, iteration * rows, left / 3600});
  if (::isatty(STDERR_FILENO)) fmt::print(stderr, "\r\033[K");
  fmt::print("{}\n", line);
  std::fflush(stdout);
  if (log_) {
    fmt::print(log_.get(), "{}\n", line);
    std::fflush(log_.get());
  }
  show_live(iteration, left);
}

void TrainingLoop::show_live(std::uint64_t iteration, double seconds_left) {
  const bool terminal = ::isatty(STDERR_FILENO) != 0;
  const base::TimePoint now = base::Clock::now();
  const bool last = iteration == static_cast<std::uint64_t>(net_->max_batches);
  if (iteration % kTableEvery == 0 || last) {
    const std::vector<observe::DeviceReport> devices = engine_.device_reports();
    if (devices.size() > 1 || options_.verbose)
      fmt::print(stderr, "{}", observe::device_table(devices, base::seconds_between(table_shown_, now)));
    if (options_.verbose)
      fmt::print(stderr, "waited {:.1f} s for pictures, {:.1f} % of the time\n", loader_->waiting_seconds(),
                 computing_seconds_ > 0 ? 100 * loader_->waiting_seconds() / computing_seconds_ : 0);
    table_shown_ = now;
  }
  if (!last && base::seconds_between(live_shown_, now) < (terminal ? kLiveSeconds : kLiveSecondsInFile)) return;
  live_shown_ = now;
  const double rows = static_cast<double>(net_->batch) * net_->subdivisions;
  const double speed = computing_seconds_ > 0 ? rows * static_cast<double>(iteration - first_iteration_) / computing_seconds_ : 0;
  const observe::Progress progress{
      iteration, static_cast<std::uint64_t>(net_->max_batches), speed, seconds_left, state_.average_loss, state_.best_precision};
  fmt::print(stderr, "{}{}", observe::live_line(progress, terminal ? terminal_columns() : 0), terminal && !last ? "" : "\n");
  std::fflush(stderr);
}

base::Status TrainingLoop::save_as_planned(std::uint64_t iteration) {
  if (iteration % kSaveEvery == 0) {
    TESSERA_TRY(save_last());
    draw_chart();
  }
  return numbered_save_due(iteration) ? save(std::to_string(iteration)) : base::Status{};
}

base::Status TrainingLoop::save(const std::string& suffix) {
  TESSERA_TRY(engine_.collect(net_));
  const std::string path = weights_path(suffix);
  TESSERA_ASSIGN(WeightsImage image, weights_image(net_, path));
  const bool numbered = suffix != "best" && suffix != "final";
  saver_.post({numbered ? "numbered" : suffix, {Saver::File::whole(path, std::move(image.bytes))}, nullptr});
  return {};
}

// The checkpoint is there before the weights that it belongs to: whichever of the two somebody goes on from, it has all.
base::Status TrainingLoop::save_last() {
  TESSERA_TRY(engine_.collect(net_));
  const std::string path = weights_path("last");
  const std::size_t iteration = get_current_batch(net_);
  if (const std::uint64_t saved = last_posted_; saved == iteration && iteration > 0) return {};
  TESSERA_ASSIGN(WeightsImage image, weights_image(net_, path));
  last_posted_ = iteration;
  CheckpointBytes bytes = checkpoint_bytes(state_, std::move(image.bytes), [this](std::string& all) { append_momentum(net_, all); });
  Saver::Job job{"last", {Saver::File::whole(checkpoint_path(options_.backup, options_.name, iteration), std::move(bytes.all))}, nullptr};
  const auto held = job.files.front().held;
  job.files.push_back({path, held, std::string_view(*held).substr(bytes.weights_at, bytes.weights_bytes)});
  job.written = [this, path, iteration, own = job.files.front().path] {
    prune_checkpoints(options_.backup, options_.name, own);
    std::lock_guard lock(saved_mutex_);
    last_saved_ = fmt::format("{} (iteration {})", path, iteration);
  };
  saver_.post(std::move(job));
  return {};
}

base::Status TrainingLoop::test(std::uint64_t iteration) {
  TESSERA_TRY(resize_to(cfg_width_, cfg_height_));
  const base::TimePoint start = base::Clock::now();
  TESSERA_ASSIGN(const double precision, hooks_.test());
  const bool best = precision > state_.best_precision;
  if (best) {
    state_.best_precision = precision;
    TESSERA_TRY(save("best"));
  }
  state_.precision.push_back({iteration, precision});
  if (::isatty(STDERR_FILENO)) fmt::print(stderr, "\r\033[K");
  fmt::print("{} at iteration {}: {:.2f} %{} ({:.1f} s)\n", options_.precision_name, iteration, 100 * precision,
             best ? ", the best so far" : fmt::format(", best {:.2f} %", 100 * state_.best_precision),
             base::seconds_between(start, base::Clock::now()));
  std::fflush(stdout);
  draw_chart();
  return {};
}

// A chart that cannot be written is no reason to stop a training.
void TrainingLoop::draw_chart() {
  const observe::ChartData chart{options_.name, static_cast<std::uint64_t>(net_->max_batches), state_.loss, state_.precision,
                                 options_.precision_name};
  for (const std::string& path : {std::string("chart.png"), fmt::format("chart_{}.png", options_.name)})
    if (const base::Status status = observe::write_chart(chart, path); !status) fmt::print(stderr, "warning: {}\n", status.error().message);
}

std::string TrainingLoop::loss_text(float loss) const {
  const std::string layer = first_bad_layer(net_);
  return fmt::format(
      "the loss is {}; {}", loss,
      layer.empty() ? "every layer's values are finite, the loss itself overflowed" : "the first value that is no number is in " + layer);
}

std::string TrainingLoop::diverged(std::uint64_t iteration, const std::string& why) const {
  std::lock_guard lock(saved_mutex_);
  return fmt::format("iteration {}: {}; {}; lower learning_rate= or raise burn_in= and go on from there", iteration, why,
                     last_saved_.empty() ? "no weights were saved yet" : "the last good weights are " + last_saved_);
}

}  // namespace tessera::darknet
