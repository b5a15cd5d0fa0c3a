// The table of commands. A command is one row: add a declaration here and a row in commands.cpp.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "darknet/commands/arguments.hpp"
#include "darknet/training/exit_codes.hpp"

namespace tessera::darknet {

struct Command {
  const char* words;  // "detector train"
  std::size_t operands_min, operands_max;
  const char* operands;  // as the usage line shows them
  const char* summary;
  std::vector<const char*> options;            // names of all_options() with a meaning here
  base::Result<int> (*run)(const Arguments&);  // the exit code
};

std::span<const Command> all_commands();
std::span<const OptionSpec> all_options();

// Options of other Darknets that mean nothing on this machine: accepted by every command with one line.
bool is_accepted_without_effect(const std::string& option);

base::Result<int> run_detector_train(const Arguments& arguments);
base::Result<int> run_detector_test(const Arguments& arguments);
base::Result<int> run_detect(const Arguments& arguments);
base::Result<int> run_detector_valid(const Arguments& arguments);
base::Result<int> run_detector_map(const Arguments& arguments);
base::Result<int> run_detector_recall(const Arguments& arguments);
base::Result<int> run_detector_demo(const Arguments& arguments);
base::Result<int> run_calc_anchors(const Arguments& arguments);
base::Result<int> run_classifier_train(const Arguments& arguments);
base::Result<int> run_classifier_valid(const Arguments& arguments);
base::Result<int> run_classifier_predict(const Arguments& arguments);
base::Result<int> run_partition(const Arguments& arguments);
base::Result<int> run_partial(const Arguments& arguments);
base::Result<int> run_worker(const Arguments& arguments);
base::Result<int> run_plan(const Arguments& arguments);

// `darknet worker`, in two programs: darknet-worker serves in its own process, and darknet becomes darknet-worker when
// that lies beside it (if not, it serves, too).
Command worker_command(base::Result<int> (*run)(const Arguments&));
base::Result<int> serve_as_worker(const Arguments& arguments);

}  // namespace tessera::darknet
