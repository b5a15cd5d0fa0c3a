#include "tests/bench/support/options.hpp"

#include <exception>
#include <filesystem>
#include <thread>

#include "tests/bench/support/network.hpp"
#include "tests/bench/support/pictures.hpp"

namespace tessera::bench {

namespace fs = std::filesystem;

constexpr int kQuickSize = 96;  // a multiple of 32, which all networks divide their input by

BenchOptions::BenchOptions(std::string program, std::vector<std::string> default_networks)
    : networks(std::move(default_networks)),
      threads(std::max(1, static_cast<int>(std::thread::hardware_concurrency()))),
      json(fmt::format("{}/bench/{}.json", TESSERA_BUILD_DIR, program)),
      cfg_folder(TESSERA_SOURCE_ROOT "/cfg"),
      ours(TESSERA_DARKNET),
      stock_ofast(TESSERA_STOCK_DARKNET),
      stock_o2(TESSERA_STOCK_O2_DARKNET) {}

void add_options(CLI::App& app, BenchOptions& options) {
  std::vector<std::string> names;
  for (const Network& network : networks()) names.push_back(network.name);
  app.add_option("--network", options.networks, "networks to measure")->check(CLI::IsMember(names))->capture_default_str();
  app.add_option("--repeat", options.repeat, "how often everything is measured, in turns")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  app.add_option("--threads", options.threads, "threads of each variant in all")
      ->envname("TESSERA_BENCH_THREADS")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--size", options.size, "width and height of the input instead of the network's own")->check(CLI::Range(32, 4096));
  app.add_flag("--quick", options.quick, "everything once and briefly: shows that it works, measures nothing well");
  app.add_option("--json", options.json, "where results are written")->capture_default_str();
  app.add_option("--cfg", options.cfg_folder, "folder with the networks' cfgs")->capture_default_str();
}

void add_program_options(CLI::App& app, BenchOptions& options) {
  app.add_option("--darknet", options.ours, "our program")->capture_default_str();
  app.add_option("--stock", options.stock_ofast, "stock Darknet with upstream's own flags")->capture_default_str();
  app.add_option("--stock-o2", options.stock_o2, "stock Darknet with -O2 -fopenmp")->capture_default_str();
  app.add_option("--timeout", options.timeout_s, "most seconds for one run")->check(CLI::Range(1, 1000000))->capture_default_str();
}

int run_bench(BenchOptions& options, const std::function<base::Result<Outcome>(const std::string& folder)>& measure) {
  const auto run = [&]() -> base::Status {
    if (options.quick) {
      options.repeat = 1;
      if (options.size == 0) options.size = kQuickSize;
    }
    for (std::string* path : {&options.json, &options.cfg_folder, &options.ours, &options.stock_ofast, &options.stock_o2})
      *path = fs::absolute(*path).string();
    const TemporaryFolder folder;
    if (folder.path().empty())
      return base::error(base::ErrorCode::kIo, "no folder can be made in {}; set TMPDIR", fs::temp_directory_path().string());
    TESSERA_ASSIGN(const Outcome outcome, measure(folder.path().string()));
    fs::create_directories(fs::path(options.json).parent_path());
    TESSERA_TRY(write_text(options.json, outcome.json.dump(2) + "\n"));
    fmt::print("\nwritten to {}\n", options.json);
    if (outcome.failures > 0) return base::error(base::ErrorCode::kIo, "{} runs failed; each is named above", outcome.failures);
    return {};
  };
  try {
    const base::Status status = run();
    if (status) return 0;
    fmt::print(stderr, "error: {}\n", status.error().message);
  } catch (const std::exception& failed) {  // of the file system, OpenCV or JSON
    fmt::print(stderr, "error: {}\n", failed.what());
  }
  return 1;
}

}  // namespace tessera::bench
