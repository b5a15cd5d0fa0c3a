// Training iterations of whole networks: stock Darknet, ours on one device, ours on four local workers. Every training is a
// process of its own; they take turns, so that all meet the same machine. What the columns mean: README.md.
#include <cblas.h>
#include <openblas_config.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <random>

#include "kernels/convolution.hpp"
#include "training_network.hpp"
#include "training_report.hpp"

namespace tessera::bench {
namespace {

namespace fs = std::filesystem;

constexpr int kWarmup = 1;  // iterations that are not counted: memory is touched, primitives are made
constexpr int kWorkers = 4;
constexpr double kSpeedBar = 5, kMemoryBar = 0.5, kWorkersBar = 0.75;

struct Options {
  std::vector<std::string> networks{"yolov2-tiny"};
  int iterations = 2, repeat = 5, size = 0, timeout_s = 1800;
  int threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  bool quick = false, measure_sgemm = false;
  std::string json = TESSERA_BUILD_DIR "/bench/training.json", cfg_folder = TESSERA_SOURCE_ROOT "/cfg";
  std::string ours = TESSERA_DARKNET, stock = TESSERA_STOCK_DARKNET;
};

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string path = (fs::temp_directory_path() / "tessera-bench-XXXXXX").string();
    if (::mkdtemp(path.data()) != nullptr) path_ = path;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const fs::path& path() const { return path_; }  // empty: it could not be made

 private:
  fs::path path_;
};

base::Status write_text(const fs::path& path, const std::string& text) {
  std::ofstream file(path);
  file << text << std::flush;
  if (!file) return base::error(base::ErrorCode::kIo, "{}: cannot be written", path.string());
  return {};
}

// Pictures of one coloured rectangle each, with labels where Darknet looks for them; returns the .data file.
base::Result<std::string> write_pictures(const fs::path& folder) {
  constexpr int kPictures = 32, kWidth = 480, kHeight = 360;
  for (const char* sub : {"images", "labels", "backup"}) fs::create_directories(folder / sub);
  std::minstd_rand random(1);
  const auto below = [&random](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  std::string list, names;
  for (int i = 0; i < kPictures; ++i) {
    const int colour = i % kClasses, width = 60 + below(160), height = 60 + below(160);
    const cv::Rect box(below(kWidth - width), below(kHeight - height), width, height);
    cv::Mat picture(kHeight, kWidth, CV_8UC3, cv::Scalar(90, 90, 90));
    cv::rectangle(picture, box, cv::Scalar(colour == 0 ? 255 : 0, colour == 1 ? 255 : 0, colour == 2 ? 255 : 0), cv::FILLED);
    const std::string path = (folder / "images" / fmt::format("{:03}.jpg", i)).string();
    if (!cv::imwrite(path, picture)) return base::error(base::ErrorCode::kIo, "{}: cannot be written", path);
    TESSERA_TRY(write_text(folder / "labels" / fmt::format("{:03}.txt", i),
                           fmt::format("{} {:.6f} {:.6f} {:.6f} {:.6f}\n", colour, (box.x + width / 2.) / kWidth, (box.y + height / 2.) / kHeight,
                                       static_cast<double>(width) / kWidth, static_cast<double>(height) / kHeight)));
    list += path + "\n";
  }
  for (int i = 0; i < kClasses; ++i) names += fmt::format("class{}\n", i);
  const std::string at = folder.string();
  TESSERA_TRY(write_text(folder / "train.txt", list));
  TESSERA_TRY(write_text(folder / "obj.names", names));
  TESSERA_TRY(write_text(folder / "obj.data", fmt::format("classes={0}\ntrain={1}/train.txt\nvalid={1}/train.txt\nnames={1}/obj.names\nbackup={1}/backup\n",
                                                          kClasses, at)));
  return at + "/obj.data";
}

// Prints the operations per second of sgemm. A process of its own, so that OpenBLAS's memory is not in the parent.
int measure_sgemm(int threads) {
  constexpr int kSize = 1536, kTimes = 4;
  openblas_set_num_threads(threads);
  const std::vector<float> a(kSize * kSize, .5f), b(kSize * kSize, .25f);
  std::vector<float> c(kSize * kSize);
  double best = 0;
  for (int i = 0; i < kTimes; ++i) {
    const auto begin = base::Clock::now();
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, kSize, kSize, kSize, 1, a.data(), kSize, b.data(), kSize, 0, c.data(), kSize);
    best = std::max(best, 2. * kSize * kSize * kSize / base::seconds_between(begin, base::Clock::now()));
  }
  fmt::print("{:.0f}\n", best);
  return 0;
}

base::Result<double> sgemm_peak(const fs::path& folder, int threads) {
  const Command command{{fs::read_symlink("/proc/self/exe").string(), "--measure-sgemm", "--threads", fmt::to_string(threads)}, {}, folder.string(),
                        (folder / "sgemm.log").string()};
  const pid_t pid = start(command);
  int status = 0;
  if (pid < 0 || ::waitpid(pid, &status, 0) != pid || status != 0)
    return base::error(base::ErrorCode::kIo, "sgemm could not be measured; it printed last: {}", last_line(command.log));
  return std::strtod(last_line(command.log).c_str(), nullptr);
}

// The variants of a network with their cfgs written, and notes on what is special about them here.
base::Status add_variants(NetworkReport& report, const darknet::CfgFile& cfg, const Options& options, const fs::path& folder, const std::string& data) {
  const auto add = [&](const std::string& name, const std::string& program, const darknet::CfgFile& file, int threads,
                       std::map<std::string, std::string> environment) -> base::Status {
    const std::string base = fmt::format("{}/variant{}", folder.string(), report.variants.size());
    TESSERA_TRY(write_text(base + ".cfg", cfg_text(file)));
    std::vector<std::string> arguments{program, "detector", "train", data, base + ".cfg"};
    if (program == options.ours) arguments.push_back("-dont_show");
    report.variants.push_back({name, threads, {arguments, std::move(environment), folder.string(), base + ".log"}, {}});
    return {};
  };
  TESSERA_TRY(add("stock", options.stock, cfg, options.threads, {{"OMP_NUM_THREADS", fmt::to_string(options.threads)}}));
  const auto built = kernels::built_backends();
  const std::string fastest(kernels::to_string(*std::max_element(built.begin(), built.end())));
  for (const auto backend : {kernels::Backend::kOnednn, kernels::Backend::kBlas}) {
    const std::string name(kernels::to_string(backend));
    if (std::find(built.begin(), built.end(), backend) == built.end()) {
      report.notes.push_back(fmt::format("{}: not built into this program, not measured", name));
      continue;
    }
    TESSERA_TRY(add(name, options.ours, distributed_cfg(cfg, "none", name, options.threads), options.threads, {}));
  }
  const int each = std::max(1, options.threads / kWorkers);
  if (each * kWorkers != options.threads)
    report.notes.push_back(fmt::format("{} threads cannot be shared evenly by {} workers: each has {}, {} in all", options.threads, kWorkers, each, each * kWorkers));
  return add(fmt::format("{}, {} workers", fastest, kWorkers), options.ours, distributed_cfg(cfg, fmt::format("local:{}", kWorkers), fastest, each),
             each * kWorkers, {});
}

void compare(NetworkReport& report) {
  const auto variant = [&report](const std::string& name) -> const Variant* {
    const auto found = std::find_if(report.variants.begin(), report.variants.end(), [&](const Variant& v) { return v.name == name; });
    return found == report.variants.end() ? nullptr : &*found;
  };
  const auto add = [&report](const std::string& name, const char* unit, std::optional<double> value, std::optional<double> bar, bool at_least) {
    if (value)
      report.comparisons.push_back({name, unit, *value, bar, at_least});
    else
      report.notes.push_back(fmt::format("{}: not measured, a training it needs failed", name));
  };
  const Variant *stock = variant("stock"), &workers = report.variants.back();
  for (const Variant& ours : report.variants) {
    if (&ours == stock || &ours == &workers) continue;
    add(ours.name + ": how many times as fast as stock", "x", ratio(stock, seconds_of, &ours, seconds_of), kSpeedBar, true);
    add(ours.name + ": memory as a share of stock's", "", ratio(&ours, process_bytes, stock, process_bytes), kMemoryBar, false);
  }
  const Variant* one = variant(workers.name.substr(0, workers.name.find(',')));
  add(workers.name + ": speed as a share of one process's", "", ratio(one, seconds_of, &workers, seconds_of), kWorkersBar, true);
  add(workers.name + ": largest worker's memory as a share of stock's", "", ratio(&workers, worker_bytes, stock, process_bytes), std::nullopt, false);
  add(workers.name + ": coordinator's memory as a share of stock's", "", ratio(&workers, process_bytes, stock, process_bytes), std::nullopt, false);
}

// Errors stop the network; a training that fails is counted in `failures`, and the others go on.
base::Result<NetworkReport> measure(Network network, const Options& options, const fs::path& folder, const std::string& data, int& failures) {
  if (options.size > 0) network.size = options.size;
  TESSERA_ASSIGN(const darknet::CfgFile cfg, training_cfg(options.cfg_folder, network, kWarmup + options.iterations));
  NetworkReport report;
  report.title = fmt::format("{} at {}, batch {}", network.name, network.size, network.batch);
  if (network.layers > 0) report.title += fmt::format(" (its first {} layers and a head)", network.layers);
  report.batch = network.batch;
  TESSERA_ASSIGN(report.convolution_flops, convolution_flops(cfg));
  TESSERA_TRY(add_variants(report, cfg, options, folder, data));
  if (network.name != "yolov2-tiny" || network.size != 416) report.notes.push_back("The bars are set for yolov2-tiny at 416, batch 8.");

  std::vector<double> peaks;
  for (int repetition = 0; repetition < options.repeat; ++repetition) {
    TESSERA_ASSIGN(const double peak, sgemm_peak(folder, options.threads));
    peaks.push_back(peak);
    for (std::size_t i = 0; i < report.variants.size(); ++i) {
      // Each repetition begins with another one, so that none always runs on a machine warmed up by the same.
      Variant& variant = report.variants[(i + static_cast<std::size_t>(repetition)) % report.variants.size()];
      const auto run = run_training(variant.command, kWarmup, options.iterations, base::Milliseconds(options.timeout_s * 1000LL));
      variant.runs.push_back(run ? std::optional(*run) : std::nullopt);
      failures += run ? 0 : 1;
      fmt::print(stderr, "{}, {}, {}/{}: {}\n", network.name, variant.name, repetition + 1, options.repeat,
                 run ? fmt::format("{:.3f} s per iteration", seconds_of(*run)) : "failed: " + run.error().message);
    }
  }
  report.sgemm_flops = median(peaks);
  compare(report);
  return report;
}

base::Result<int> run(const Options& options) {
  const TemporaryFolder folder;
  if (folder.path().empty()) return base::error(base::ErrorCode::kIo, "no folder can be made in {}; set TMPDIR", fs::temp_directory_path().string());
  TESSERA_ASSIGN(const std::string data, write_pictures(folder.path()));
  nlohmann::json json{{"threads", options.threads}, {"iterations", options.iterations}, {"repetitions", options.repeat}, {"networks", nlohmann::json::array()}};
  int failures = 0;
  for (const std::string& name : options.networks) {
    const auto network = std::find_if(networks().begin(), networks().end(), [&](const Network& n) { return n.name == name; });
    TESSERA_ASSIGN(const NetworkReport report, measure(*network, options, folder.path(), data, failures));
    print_table(report);
    json["networks"].push_back(to_json(report));
  }
  json["failed_trainings"] = failures;
  if (const fs::path parent = fs::path(options.json).parent_path(); !parent.empty()) fs::create_directories(parent);
  TESSERA_TRY(write_text(options.json, json.dump(2) + "\n"));
  fmt::print("\nwritten to {}\n", options.json);
  if (failures > 0) return base::error(base::ErrorCode::kIo, "{} trainings failed; each is named above", failures);
  return 0;
}

int main(int argc, char** argv) {
  Options options;
  std::vector<std::string> names;
  for (const Network& network : networks()) names.push_back(network.name);
  CLI::App app("Times training iterations of stock Darknet and of ours, and their memory.");
  app.add_option("--network", options.networks, "networks to train")->check(CLI::IsMember(names))->capture_default_str();
  app.add_option("--iterations", options.iterations, "timed iterations of each training; one before them is not counted")
      ->check(CLI::Range(1, 1000))->capture_default_str();
  app.add_option("--repeat", options.repeat, "trainings of each variant")->check(CLI::Range(1, 100))->capture_default_str();
  app.add_flag("--quick", options.quick, "one training of one timed iteration each: shows that it works, measures nothing well");
  app.add_option("--threads", options.threads, "threads of each variant in all")->envname("TESSERA_BENCH_THREADS")
      ->check(CLI::Range(1, 1024))->capture_default_str();
  app.add_option("--size", options.size, "width and height of the input instead of the network's own")->check(CLI::Range(32, 4096));
  app.add_option("--timeout", options.timeout_s, "most seconds for one training")->check(CLI::Range(1, 1000000))->capture_default_str();
  app.add_option("--json", options.json, "where results are written")->capture_default_str();
  app.add_option("--cfg", options.cfg_folder, "folder with the networks' cfgs")->capture_default_str();
  app.add_option("--darknet", options.ours, "our program")->capture_default_str();
  app.add_option("--stock", options.stock, "stock Darknet (make stock)")->capture_default_str();
  app.add_flag("--measure-sgemm", options.measure_sgemm)->group("");  // what this program calls itself for
  CLI11_PARSE(app, argc, argv);
  if (options.measure_sgemm) return measure_sgemm(options.threads);
  if (options.quick) options.iterations = options.repeat = 1;
  try {
    options.json = fs::absolute(options.json).string(), options.cfg_folder = fs::absolute(options.cfg_folder).string();
    options.ours = fs::absolute(options.ours).string(), options.stock = fs::absolute(options.stock).string();
    const auto outcome = run(options);
    if (outcome) return *outcome;
    fmt::print(stderr, "error: {}\n", outcome.error().message);
  } catch (const std::exception& failed) {  // of the file system, OpenCV or JSON
    fmt::print(stderr, "error: {}\n", failed.what());
  }
  return 1;
}

}  // namespace
}  // namespace tessera::bench

int main(int argc, char** argv) { return tessera::bench::main(argc, argv); }
