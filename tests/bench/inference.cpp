// Looking through one picture after another with `detector test`: stock Darknet and ours on the same cfg, with the same
// random weights. Every run is a process of its own; they take turns. What the columns mean: README.md.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "base/text.hpp"
#include "darknet/upstream/weights_file.hpp"
#include "tests/bench/support/network.hpp"
#include "tests/bench/support/options.hpp"
#include "tests/bench/support/pictures.hpp"
#include "tests/bench/support/rounds.hpp"
#include "tests/bench/support/sgemm.hpp"
#include "tests/support/oracle.hpp"

namespace tessera::bench {
namespace {

namespace fs = std::filesystem;

constexpr double kTinyBar = 12;  // times as fast as stock, yolov2-tiny at 416
constexpr const char* kWriteWeights = "--write-weights";
// Nothing is found with random weights at this threshold: drawing boxes is not what is measured.
constexpr const char* kThreshold = "0.999";

struct InferenceOptions : BenchOptions {
  InferenceOptions() : BenchOptions("inference", {"yolov2-tiny", "yolov2", "yolov2-16"}) {}
  int pictures = 5;
};

// Stock Darknet's random weights, and of every batch normalisation a variance that keeps values in range (fresh ones
// are 0, which multiplies them by a million in each layer).
base::Status write_weights(const std::string& cfg, const std::string& weights) {
  std::srand(1);
  const testing::StockNetwork net(stock_parse_network_cfg(const_cast<char*>(cfg.c_str())));
  for (int i = 0; i < net->n; ++i)
    if (net->layers[i].batch_normalize) std::fill_n(net->layers[i].rolling_variance, net->layers[i].n, 1.f);
  TESSERA_TRY(darknet::save_weights_file(net.get(), weights));
  return {};
}

// In a process of its own: a network's memory would be in this one, and its children are compared with it.
base::Status write_weights_apart(const std::string& folder, const std::string& cfg, const std::string& weights) {
  const Command command{
      {fs::read_symlink("/proc/self/exe").string(), kWriteWeights, cfg, weights}, {}, folder, "", folder + "/weights.log"};
  return run_to_end(command);
}

struct Place {
  std::string folder, data, list;  // list: of the pictures' paths
};

base::Result<Place> prepare(const InferenceOptions& options, const std::string& folder) {
  Place place{folder, "", folder + "/list.txt"};
  TESSERA_ASSIGN(place.data, write_pictures(folder));
  TESSERA_ASSIGN(const std::vector<std::string> paths, base::read_lines(folder + "/train.txt", "list of pictures"));
  std::string list;
  for (int i = 0; i < kWarmup + options.pictures; ++i) list += paths[static_cast<std::size_t>(i) % paths.size()] + "\n";
  TESSERA_TRY(write_text(place.list, list));
  // Stock Darknet reads the letters of its labels from here, whether it draws any or not.
  fs::create_directory_symlink(fs::path(TESSERA_UPSTREAM_ROOT) / "data", fs::path(folder) / "data");
  return place;
}

base::Result<NetworkReport> measure(Network network, const InferenceOptions& options, const Place& place, int& failures) {
  const bool has_bar = network.name == "yolov2-tiny" && (options.size == 0 || options.size == network.size);
  if (options.size > 0) network.size = options.size;
  network.batch = 1;
  NetworkReport report;
  report.title = network.title();
  report.unit = "picture";
  report.batch = 1;
  TESSERA_ASSIGN(const cfg::CfgFile file, plain_cfg(options.cfg_folder, network, 1));
  TESSERA_ASSIGN(const auto layers, convolution_layers(file));
  report.convolution_flops = inference_flops(layers, 1);
  const std::string cfg = place.folder + "/" + network.name + ".cfg", weights = cfg + ".weights";
  TESSERA_TRY(write_text(cfg, cfg_text(file)));
  TESSERA_TRY(write_weights_apart(place.folder, cfg, weights));

  const std::pair<const char*, std::string> programs[] = {
      {"stock -Ofast", options.stock_ofast}, {"stock -O2", options.stock_o2}, {"ours", options.ours}};
  for (const auto& [name, program] : programs) {
    Command command{{program, "detector", "test", place.data, cfg, weights, "-thresh", kThreshold, "-out", "predictions"},
                    {{"OMP_NUM_THREADS", fmt::to_string(options.threads)}},
                    place.folder,
                    place.list,
                    fmt::format("{}/variant{}.log", place.folder, report.variants.size())};
    if (program == options.ours) command.arguments.push_back("-dont_show");
    command.form = LogForm::kPredictions;
    command.timed = options.pictures;
    report.variants.push_back({name, options.threads, std::move(command), "", {}});
  }
  TESSERA_TRY(run_rounds(report, {options.repeat, options.threads, options.timeout_s, place.folder}, failures));
  const Variant* ours = report.find("ours");
  for (const char* stock : {"stock -Ofast", "stock -O2"})
    compare(report, fmt::format("ours: times as fast as {}", stock), "x", report.find(stock), seconds_of, ours, seconds_of, Bar::kAtLeast,
            has_bar ? std::optional(kTinyBar) : std::nullopt);
  compare(report, "ours: memory as a share of stock's", "", ours, process_bytes, report.find("stock -Ofast"), process_bytes, Bar::kAtMost,
          std::nullopt);
  return report;
}

base::Result<Outcome> run(const InferenceOptions& options, const std::string& folder) {
  TESSERA_ASSIGN(const Place place, prepare(options, folder));
  Outcome outcome;
  outcome.json = {{"threads", options.threads}, {"pictures", options.pictures}, {"networks", nlohmann::json::array()}};
  for (const std::string& name : options.networks) {
    TESSERA_ASSIGN(const Network network, find_network(name));
    TESSERA_ASSIGN(const NetworkReport report, measure(network, options, place, outcome.failures));
    print_table(report);
    outcome.json["networks"].push_back(to_json(report));
  }
  outcome.json["failed_runs"] = outcome.failures;
  return outcome;
}

int main(int argc, char** argv) {
  InferenceOptions options;
  bool only_sgemm = false;
  std::vector<std::string> weights_of;
  CLI::App app("Times stock Darknet and ours looking through pictures one by one, and their memory.");
  add_options(app, options);
  add_program_options(app, options);
  app.add_option("--pictures", options.pictures, "timed pictures of each run; one before them is not counted")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  // What this program calls itself for.
  app.add_flag(kMeasureSgemm, only_sgemm)->group("");
  app.add_option(kWriteWeights, weights_of)->expected(2)->group("");
  CLI11_PARSE(app, argc, argv);
  if (only_sgemm) {
    fmt::print("{:.0f}\n", measure_sgemm(options.threads));
    return 0;
  }
  if (!weights_of.empty()) {
    const base::Status status = write_weights(weights_of[0], weights_of[1]);
    if (!status) fmt::print(stderr, "{}\n", status.error().message);
    return status ? 0 : 1;
  }
  return run_bench(options, [&](const std::string& folder) { return run(options, folder); });
}

}  // namespace
}  // namespace tessera::bench

int main(int argc, char** argv) { return tessera::bench::main(argc, argv); }
