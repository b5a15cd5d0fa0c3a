// Training with worker processes: whatever their number and whatever is asked of them, the result is that of one process.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <fstream>
#include <iterator>
#include <utility>

#include "tests/support/training_run.hpp"

using namespace tessera::testing;

namespace {

// What summation order alone makes of 30 iterations; measured: 3e-7.
constexpr double kSameResult = 1e-4;
// Darknet sums in another order from the first convolution on.
constexpr double kSameAsStock = 1e-3;

TrainingCfg with_workers(int count, std::vector<std::string> more = {}) {
  TrainingCfg cfg;
  cfg.distributed = std::move(more);
  cfg.distributed.push_back(count == 0 ? "workers=none" : fmt::format("workers=local:{}", count));
  cfg.distributed.push_back("threads=1");
  return cfg;
}

void check_same_result(const std::string& weights, const std::string& reference, double tolerance = kSameResult) {
  CHECK(seen_images(weights) == seen_images(reference));
  CHECK(weights_distance(weights, reference) <= tolerance);
}

// Of AlexeyAB's dialect, all that is cut into tiles: a block of YOLOv4-tiny, depth-wise and dilated convolutions, strides that
// differ, a shortcut of three layers, and its activations.
constexpr const char* kDialect = R"(
[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=leaky

[route]
layers=-1
groups=2
group_id=1

[convolutional]
batch_normalize=1
filters=4
size=3
stride=1
pad=1
activation=mish

[convolutional]
batch_normalize=1
filters=4
groups=4
size=3
stride=1
pad=1
activation=swish

[route]
layers=-1,-2

[convolutional]
batch_normalize=1
filters=8
size=1
stride=1
pad=1
activation=leaky

[route]
layers=-6,-1

[maxpool]
size=2
stride_x=2
stride_y=1

[convolutional]
batch_normalize=1
filters=16
size=3
stride_x=1
stride_y=2
pad=1
activation=leaky

[convolutional]
batch_normalize=1
filters=16
size=3
stride=1
pad=1
dilation=2
activation=hard_mish

[convolutional]
batch_normalize=1
filters=16
groups=2
size=3
stride=1
pad=1
activation=relu6

[shortcut]
from=-2,-3
activation=leaky

[convolutional]
batch_normalize=1
filters=12
size=3
stride=2
pad=1
activation=leaky

)";

// A file of cfg/ for these pictures: of their size, with their classes, for three iterations with steps that matter.
std::string small_cfg(const std::string& name, const std::string& workers) {
  std::ifstream file(std::string(TESSERA_SOURCE_ROOT) + "/cfg/" + name + ".cfg");
  std::string text{std::istreambuf_iterator<char>(file), {}};
  const std::vector<std::pair<std::string, std::string>> changes = {{"width = 416", "width = 64"},
                                                                    {"height = 416", "height = 64"},
                                                                    {"batch = 64", "batch = 4"},
                                                                    {"subdivisions = 8", "subdivisions = 2"},
                                                                    {"burn_in = 1000", "burn_in = 0"},
                                                                    {"max_batches = 500200", "max_batches = 3"},
                                                                    {"learning_rate = ", "learning_rate = 0.00002\n#"},
                                                                    {"filters = 255", "filters = 21"},
                                                                    {"classes = 80", "classes = 2"},
                                                                    {"workers = local:4", "workers = " + workers},
                                                                    {"grid = auto", workers == "none" ? "grid = auto" : "grid = 2x2"},
                                                                    {"[distributed]", "[distributed]\nbackend = blas\nthreads = 1"}};
  for (const auto& [from, to] : changes) {
    std::size_t at = text.find(from);
    REQUIRE(at != std::string::npos);
    for (; at != std::string::npos; at = text.find(from, at + to.size())) text.replace(at, from.size(), to);
  }
  return text;
}

}  // namespace

TEST_CASE("training with 1, 2, 3, 4 and 6 worker processes ends with the weights of one process") {
  const TrainingFolder folder;
  const std::string alone = train(folder, "alone", with_workers(0));
  CHECK(seen_images(alone) == 30 * 4);
  {
    INFO("upstream's code, in the same program");
    check_same_result(train(folder, "stock", TrainingCfg{}, {"-backend", "stock"}), alone, kSameAsStock);
  }
  {
    INFO("without a [distributed] section");
    check_same_result(train(folder, "plain", TrainingCfg{}), alone, kSameAsStock);
  }
  for (const int workers : {1, 2, 3, 4, 6}) {
    CAPTURE(workers);
    TrainingRun run(folder, fmt::format("local{}", workers), with_workers(workers));
    const auto pids = run.worker_pids();
    CHECK(pids.size() == static_cast<std::size_t>(workers));
    check_same_result(run.finish(), alone);
    for (const pid_t pid : pids) CHECK_FALSE(is_running(pid));
    CHECK(folder.leftovers().empty());
  }
}

TEST_CASE("the faster backends, told or chosen by measuring, end with the reference's weights") {
  const TrainingFolder folder;
  TrainingCfg cfg = with_workers(0);
  cfg.learning_rate = 0.00002;  // they add in orders that depend on the processor: smaller steps
  const std::string reference = train(folder, "reference", cfg);
  cfg.distributed = with_workers(3).distributed;
  for (const char* backend : {"blas", "auto", "auto"}) {  // measured, and remembered
    CAPTURE(backend);
    cfg.backend = backend;
    check_same_result(train(folder, backend, cfg), reference);
  }
}

TEST_CASE("two runs of one plan give bit-identical weights files") {
  const TrainingFolder folder;
  for (const char* grid : {"grid=2x2", "grid=1x2x2", "grid=4x1"}) {
    INFO(std::string(grid));
    const std::string first = train(folder, "first", with_workers(4, {grid}));
    const std::string second = train(folder, "second", with_workers(4, {grid}));
    CHECK(first == second);
  }
}

TEST_CASE("wire=fp16 is announced, sends less, and ends near the exact weights") {
  const TrainingFolder folder;
  const std::string exact = train(folder, "exact", with_workers(2, {"grid=2x1"}));
  TrainingRun run(folder, "half", with_workers(2, {"grid=2x1", "wire=fp16"}));
  const std::string rounded = run.finish();
  CHECK(run.has_line("wire=fp16: activations and deltas travel in half precision, results are approximate"));
  CHECK(seen_images(rounded) == seen_images(exact));
  const double distance = weights_distance(rounded, exact);
  CAPTURE(distance);
  CHECK(distance > kSameResult);
  CHECK(distance <= 5e-2);  // measured: 1.5e-2, which is little more than one iteration moves
  CHECK(train(folder, "again", with_workers(2, {"grid=2x1", "wire=fp16"})) == rounded);
  TrainingRun plain(folder, "plain", with_workers(2, {"grid=2x1", "wire=fp32"}));
  CHECK(plain.finish() == exact);
  CHECK_FALSE(plain.has_line("approximate"));
}

TEST_CASE("grids and groups change nothing but the order of sums") {
  const TrainingFolder folder;
  const std::string alone = train(folder, "alone", with_workers(0));
  check_same_result(train(folder, "each", with_workers(4, {"grid=2x2", "forward_groups=each", "backward_groups=each"})), alone);
  check_same_result(train(folder, "one", with_workers(4, {"grid=2x2", "forward_groups=one", "backward_groups=one"})), alone);
  check_same_result(train(folder, "listed", with_workers(3, {"grid=3x1", "forward_groups=0,4,8", "backward_groups=1,5,9"})), alone);
  check_same_result(train(folder, "fewer", with_workers(2, {"grid=1x2", "layers=5"})), alone);
  // The order of computing and sending is another, the sums are the same.
  const auto in_order = [&](const char* order) {
    return train(folder, order, with_workers(4, {"grid=2x2", "forward_groups=each", order}));
  };
  CHECK(in_order("boundary_first=on") == in_order("boundary_first=off"));
}

TEST_CASE("layers cut along channels change nothing but the order of sums, whatever comes in between") {
  const TrainingFolder folder;
  const std::string alone = train(folder, "alone", with_workers(0));
  for (const char* channels : {"channels=0", "channels=3", "channels=5-8", "channels=9"}) {
    INFO(std::string(channels));
    TrainingRun run(folder, "cut", with_workers(3, {channels}));
    check_same_result(run.finish(), alone);
    CHECK(run.has_line("cut along channels, each worker with filters of its own"));
  }
  CHECK(train(folder, "again", with_workers(4, {"channels=3"})) == train(folder, "twice", with_workers(4, {"channels=3"})));
  {
    INFO("testing in the middle");
    TrainingRun run(folder, "tested", with_workers(4, {"grid=2x2", "channels=3"}), {"-map", "-map_every", "10"});
    CHECK(run.finish() == train(folder, "untested", with_workers(4, {"grid=2x2", "channels=3"})));
  }
  {
    INFO("several sizes");
    TrainingCfg one = with_workers(0), workers = with_workers(4, {"channels=2-6"});
    for (TrainingCfg* cfg : {&one, &workers}) cfg->random = true, cfg->iterations = 40;
    check_same_result(train(folder, "workers", workers), train(folder, "one", one));
  }
}

TEST_CASE("random=1 with workers trains at the same sizes with the same result") {
  const TrainingFolder folder;
  TrainingCfg alone = with_workers(0), workers = with_workers(4);
  for (TrainingCfg* cfg : {&alone, &workers}) cfg->random = true, cfg->iterations = 40;
  TrainingRun reference(folder, "alone", alone, {"-verbose"}), run(folder, "workers", workers, {"-verbose"});
  const std::string expected = reference.finish(), weights = run.finish();
  CHECK(reference.has_line("input size "));
  CHECK(run.has_line("input size "));
  check_same_result(weights, expected);
  TrainingCfg plain = alone;
  plain.distributed.clear();
  check_same_result(train(folder, "plain", plain), train(folder, "stock", plain, {"-backend", "stock"}), kSameAsStock);
}

TEST_CASE("subdivisions give the same images another rhythm and the same engine the same result") {
  const TrainingFolder folder;
  for (const int subdivisions : {1, 4}) {
    CAPTURE(subdivisions);
    TrainingCfg alone = with_workers(0), workers = with_workers(4);
    for (TrainingCfg* cfg : {&alone, &workers}) cfg->subdivisions = subdivisions, cfg->iterations = 15;
    check_same_result(train(folder, "workers", workers), train(folder, "alone", alone));
  }
}

TEST_CASE("testing in the middle of training, at batch 1, leaves the training as it was") {
  const TrainingFolder folder;
  TrainingRun run(folder, "tested", with_workers(4, {"grid=2x2"}), {"-map", "-map_every", "10"});
  const std::string weights = run.finish();
  for (const int iteration : {10, 20, 30}) CHECK(run.has_line(fmt::format("at iteration {}:", iteration)));
  CHECK(weights == train(folder, "untested", with_workers(4, {"grid=2x2"})));
}

TEST_CASE("AlexeyAB's dialect is trained in tiles with the result of one process, and of its own layers") {
  const TrainingFolder folder;
  TrainingCfg alone = with_workers(0);
  alone.network = kDialect;
  const std::string expected = train(folder, "alone", alone);
  {
    INFO("Darknet's own way, layer by layer; rounding grows tenfold in every few iterations, so few of them");
    TrainingCfg few = alone, plain = alone;
    few.iterations = plain.iterations = 5;
    plain.distributed.clear();
    check_same_result(train(folder, "layers", plain, {"-backend", "stock"}), train(folder, "few", few));
  }
  for (const std::vector<std::string>& more : std::vector<std::vector<std::string>>{
           {}, {"grid=2x2"}, {"grid=1x4", "forward_groups=each", "backward_groups=each"}, {"channels=3"}, {"channels=8"}}) {
    CAPTURE(more.empty() ? "auto" : more.front());
    TrainingCfg cfg = with_workers(4, more);
    cfg.network = kDialect;
    TrainingRun run(folder, "workers", cfg);
    CHECK(run.worker_pids().size() == 4);
    check_same_result(run.finish(), expected);
  }
}

TEST_CASE("yolov4-tiny of cfg/ is trained on four workers as by one process") {
  const TrainingFolder folder;
  TrainingCfg alone = with_workers(0), workers = with_workers(4);
  alone.whole = small_cfg("yolov4-tiny", "none"), workers.whole = small_cfg("yolov4-tiny", "local:4");
  TrainingRun run(folder, "workers", workers);
  CHECK(run.worker_pids().size() == 4);
  check_same_result(run.finish(120), train(folder, "alone", alone));
}

TEST_CASE("the other networks of the dialect in cfg/ are trained") {
  const TrainingFolder folder;
  for (const char* name : {"yolov4-tiny-3l", "yolov7-tiny"}) {
    CAPTURE(name);
    TrainingCfg cfg = with_workers(0);
    cfg.whole = small_cfg(name, "none");
    CHECK(seen_images(train(folder, name, cfg)) == 3 * 4);
  }
}
