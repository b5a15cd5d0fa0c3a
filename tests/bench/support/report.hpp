// What the runs of a network's variants amount to: medians, ratios against their bars, as a table and as JSON.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "tests/bench/support/process.hpp"

namespace tessera::bench {

// One way of running a network; runs[i] belongs to round i and is empty where it failed.
struct Variant {
  std::string name;
  int threads = 1;  // of all its processes together
  Command command;
  std::string absent;  // why it cannot be run here; "" when it can
  std::vector<std::optional<Run>> runs;
};

struct Comparison {
  std::string name, unit;
  double value = 0;
  std::optional<double> bar;
  bool at_least = true;  // else at most

  std::optional<bool> met() const;
};

struct NetworkReport {
  std::string title;
  std::string unit;  // what is timed: "iteration", "picture"
  int batch = 0;
  double convolution_flops = 0;  // of one of these
  double sgemm_flops = 0;        // per second, on the threads of one process
  std::vector<Variant> variants;
  std::vector<Comparison> comparisons;
  std::vector<std::string> notes;

  const Variant* find(const std::string& name) const;  // null: there is none
};

using Measure = std::function<double(const Run&)>;

double seconds_of(const Run& run);
double process_bytes(const Run& run);
double worker_bytes(const Run& run);  // of the worker that had most; 0 without workers

double median(std::vector<double> values);  // of at least one

enum class Bar { kAtLeast, kAtMost };

// Adds the median over the repetitions of a / b: the two ran one after the other, so that a slow minute of the machine
// hits both. Nothing is added where one of them is absent; a failed one leaves a note.
void compare(NetworkReport& report, const std::string& name, const std::string& unit, const Variant* a, const Measure& of_a,
             const Variant* b, const Measure& of_b, Bar kind, std::optional<double> bar);

void print_table(const NetworkReport& report);
nlohmann::json to_json(const NetworkReport& report);

}  // namespace tessera::bench
