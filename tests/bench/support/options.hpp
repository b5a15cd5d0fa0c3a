// What the programs that run networks have in common: their options, their temporary folder, their JSON.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/result.hpp"

namespace tessera::bench {

struct BenchOptions {
  std::vector<std::string> networks;
  int repeat = 5;
  int size = 0;  // 0: the network's own
  int threads = 1;
  int timeout_s = 1800;
  bool quick = false;
  std::string json;  // set by the program
  std::string cfg_folder, ours, stock_ofast, stock_o2;

  BenchOptions(std::string program, std::vector<std::string> default_networks);
};

void add_options(CLI::App& app, BenchOptions& options);
// Of those that run other programs: which ones, and how long they may take.
void add_program_options(CLI::App& app, BenchOptions& options);

// What a program measured: its JSON, and how many runs failed.
struct Outcome {
  nlohmann::json json;
  int failures = 0;
};

// Makes paths absolute, calls `measure` with a temporary folder and writes what it returns. Returns the exit status:
// 1, and why on stderr, when something could not be done or a run failed.
int run_bench(BenchOptions& options, const std::function<base::Result<Outcome>(const std::string& folder)>& measure);

}  // namespace tessera::bench
