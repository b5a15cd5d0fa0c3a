// A measured program as a child process: its times from its own log, its memory from the kernel. Linux only (/proc).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/result.hpp"

namespace tessera::bench {

// The first times are not counted: memory is touched, primitives are made.
inline constexpr int kWarmup = 1;

// What a line with a time looks like; others are skipped.
enum class LogForm {
  kIterations,   // "N: LOSS, ... S seconds...": a training's, stock's and ours
  kPredictions,  // "...: Predicted in S seconds.": of `detector test`
};

struct Command {
  std::vector<std::string> arguments;  // the program first, by its path
  std::map<std::string, std::string> environment;
  std::string folder, input, log;  // where it runs; what it reads ("": nothing); what gets its output
  LogForm form = LogForm::kIterations;
  int timed = 1;  // it prints kWarmup + timed times
};

struct Run {
  std::vector<double> seconds;   // without the warm-up
  std::uint64_t peak_bytes = 0;  // most resident memory of the process itself
  std::vector<std::uint64_t> worker_peak_bytes;
};

// Runs the command to its end. Errors: it fails.
[[nodiscard]] base::Status run_to_end(const Command& command);

// The last line of a file that says anything.
std::string last_line(const std::string& path);

// The same, looking at its memory all the while and reading times from its log. Errors: it fails, prints another number
// of times or a loss that is no number, or takes longer than `patience`.
[[nodiscard]] base::Result<Run> run_command(const Command& command, base::Milliseconds patience);

}  // namespace tessera::bench
