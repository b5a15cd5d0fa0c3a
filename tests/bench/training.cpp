// Training iterations of whole networks: stock Darknet, ours on one device and on local workers, PyTorch, and oneDNN's
// convolutions alone. Every run is a process of its own; they take turns. What the columns mean: README.md.
#include <CLI/CLI.hpp>

#include "tests/bench/support/network.hpp"
#include "tests/bench/support/options.hpp"
#include "tests/bench/support/pictures.hpp"
#include "tests/bench/support/rounds.hpp"
#include "tests/bench/support/sgemm.hpp"
#include "tests/bench/support/training_bars.hpp"
#include "tests/bench/support/training_variants.hpp"

namespace tessera::bench {
namespace {

struct TrainingOptions : BenchOptions {
  TrainingOptions() : BenchOptions("training", {"yolov2-tiny", "yolov2-16", "yolov2-tiny-64", "yolov2", "yolov3-tiny", "resnet18"}) {}
  int iterations = 3, workers = 0, repeat_others = 2;
  std::string python = "/usr/bin/python3";  // Debian's, which python3-torch is for
};

base::Result<NetworkReport> measure(Network network, const TrainingOptions& options, const std::string& folder, const std::string& data,
                                    int& failures) {
  const Bars bars = options.size > 0 && options.size != network.size ? Bars{} : bars_of(network.name);
  if (options.size > 0) network.size = options.size;
  if (options.workers > 0) network.workers = options.workers;
  NetworkReport report;
  report.title = network.title();
  report.unit = "iteration";
  report.batch = network.batch;
  TESSERA_ASSIGN(const cfg::CfgFile cfg, plain_cfg(options.cfg_folder, network, 1));
  TESSERA_ASSIGN(const auto layers, convolution_layers(cfg));
  report.convolution_flops = training_flops(layers, network.batch);
  const TrainingPrograms programs{options.ours, options.stock_ofast, options.stock_o2, options.python};
  TESSERA_ASSIGN(const Roles roles,
                 add_training_variants(report, network, programs, {options.cfg_folder, folder, data, options.threads, options.iterations}));
  const bool has_bars = bars.any();
  TESSERA_TRY(run_rounds(
      report, {has_bars ? options.repeat : std::min(options.repeat, options.repeat_others), options.threads, options.timeout_s, folder},
      failures));
  compare_training(report, roles, bars);
  return report;
}

base::Result<Outcome> run(const TrainingOptions& options, const std::string& folder) {
  TESSERA_ASSIGN(const std::string data, write_pictures(folder));
  Outcome outcome;
  outcome.json = {{"threads", options.threads}, {"iterations", options.iterations}, {"networks", nlohmann::json::array()}};
  for (const std::string& name : options.networks) {
    TESSERA_ASSIGN(const Network network, find_network(name));
    TESSERA_ASSIGN(const NetworkReport report, measure(network, options, folder, data, outcome.failures));
    print_table(report);
    outcome.json["networks"].push_back(to_json(report));
  }
  outcome.json["failed_runs"] = outcome.failures;
  return outcome;
}

int main(int argc, char** argv) {
  TrainingOptions options;
  bool only_sgemm = false;
  CLI::App app("Times training iterations of stock Darknet, of ours and of PyTorch, and their memory.");
  add_options(app, options);
  add_program_options(app, options);
  app.add_option("--iterations", options.iterations, "timed iterations of each training (stock: 1); one before them is not counted")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--repeat-others", options.repeat_others, "--repeat for networks without bars, if less")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  app.add_option("--workers", options.workers, "local workers instead of the network's own number")->check(CLI::Range(2, 64));
  app.add_option("--python", options.python, "the Python whose PyTorch is measured")->capture_default_str();
  app.add_flag(kMeasureSgemm, only_sgemm)->group("");  // what this program calls itself for
  CLI11_PARSE(app, argc, argv);
  if (only_sgemm) {
    fmt::print("{:.0f}\n", measure_sgemm(options.threads));
    return 0;
  }
  if (options.quick) options.iterations = 1;
  return run_bench(options, [&](const std::string& folder) { return run(options, folder); });
}

}  // namespace
}  // namespace tessera::bench

int main(int argc, char** argv) { return tessera::bench::main(argc, argv); }
