// What the runs of training.cpp amount to: medians, ratios against their bars, as a table and as JSON.
#pragma once

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "training_process.hpp"

namespace tessera::bench {

// One way of training a network; runs[i] belongs to repetition i and is empty where it failed.
struct Variant {
  std::string name;
  int threads = 1;  // of all its processes together
  Command command;
  std::vector<std::optional<Run>> runs;
};

struct Comparison {
  std::string name, unit;
  double value = 0;
  std::optional<double> bar;
  bool at_least = true;  // else at most

  std::optional<bool> met() const {
    if (!bar) return std::nullopt;
    return at_least ? value >= *bar : value <= *bar;
  }
};

inline double median(std::vector<double> values) {
  const std::size_t middle = values.size() / 2;
  std::sort(values.begin(), values.end());
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

using Measure = std::function<double(const Run&)>;

inline double seconds_of(const Run& run) { return median(run.iteration_seconds); }
inline double process_bytes(const Run& run) { return static_cast<double>(run.peak_bytes); }
inline double worker_bytes(const Run& run) {
  const auto& peaks = run.worker_peak_bytes;
  return peaks.empty() ? 0 : static_cast<double>(*std::max_element(peaks.begin(), peaks.end()));
}

inline std::vector<double> values_of(const Variant& variant, const Measure& measure) {
  std::vector<double> values;
  for (const auto& run : variant.runs)
    if (run) values.push_back(measure(*run));
  return values;
}

// Median over the repetitions of a/b: the two ran one after the other, so that a slow minute of the machine hits both.
inline std::optional<double> ratio(const Variant* a, const Measure& of_a, const Variant* b, const Measure& of_b) {
  if (a == nullptr || b == nullptr) return std::nullopt;
  std::vector<double> ratios;
  for (std::size_t i = 0; i < std::min(a->runs.size(), b->runs.size()); ++i)
    if (a->runs[i] && b->runs[i]) ratios.push_back(of_a(*a->runs[i]) / of_b(*b->runs[i]));
  if (ratios.empty()) return std::nullopt;
  return median(ratios);
}

struct NetworkReport {
  std::string title;
  int batch = 0;
  double convolution_flops = 0;   // of one iteration
  double sgemm_flops = 0;         // per second, on the threads of one process
  std::vector<Variant> variants;
  std::vector<Comparison> comparisons;
  std::vector<std::string> notes;
};

inline const char* answer(const Comparison& comparison) {
  const auto met = comparison.met();
  return !met ? "" : *met ? "yes" : "NO";
}

inline void print_table(const NetworkReport& report) {
  fmt::print("\n== {}: {:.1f} GFLOP of convolutions per iteration, sgemm {:.1f} GFLOP/s\n", report.title, report.convolution_flops * 1e-9,
             report.sgemm_flops * 1e-9);
  fmt::print("{:<24} {:>7} {:>12} {:>17} {:>9} {:>8} {:>8} {:>9} {:>11}\n", "", "threads", "s/iteration", "(least - most)", "images/s", "GFLOP/s",
             "of sgemm", "peak MB", "per worker");
  for (const Variant& variant : report.variants) {
    const auto seconds = values_of(variant, seconds_of);
    if (seconds.empty()) {
      fmt::print("{:<24} {:>7} failed\n", variant.name, variant.threads);
      continue;
    }
    const auto [least, most] = std::minmax_element(seconds.begin(), seconds.end());
    const double typical = median(seconds), speed = report.convolution_flops / typical, worker = median(values_of(variant, worker_bytes));
    fmt::print("{:<24} {:>7} {:>12.3f} {:>17} {:>9.2f} {:>8.1f} {:>7.1f}% {:>9.0f} {:>11}\n", variant.name, variant.threads, typical,
               fmt::format("({:.3f} - {:.3f})", *least, *most), report.batch / typical, speed * 1e-9, 100 * speed / report.sgemm_flops,
               median(values_of(variant, process_bytes)) * 1e-6, worker > 0 ? fmt::format("{:.0f}", worker * 1e-6) : "");
  }
  fmt::print("\n{:<58} {:>8} {:>9} {:>5}\n", "", "measured", "bar", "met");
  for (const Comparison& c : report.comparisons)
    fmt::print("{:<58} {:>8} {:>9} {:>5}\n", c.name, fmt::format("{:.2f}{}", c.value, c.unit),
               c.bar ? fmt::format("{} {:g}{}", c.at_least ? ">=" : "<=", *c.bar, c.unit) : "", answer(c));
  for (const std::string& note : report.notes) fmt::print("{}\n", note);
  std::fflush(stdout);
}

inline nlohmann::json to_json(const NetworkReport& report) {
  nlohmann::json json{{"network", report.title}, {"batch", report.batch}, {"convolution_flop_per_iteration", report.convolution_flops},
                      {"sgemm_flop_per_second", report.sgemm_flops}, {"notes", report.notes}, {"variants", nlohmann::json::array()},
                      {"comparisons", nlohmann::json::array()}};
  for (const Variant& variant : report.variants) {
    nlohmann::json entry{{"name", variant.name}, {"threads", variant.threads}, {"runs", nlohmann::json::array()}};
    for (const auto& run : variant.runs)
      entry["runs"].push_back(run ? nlohmann::json{{"iteration_seconds", run->iteration_seconds}, {"peak_bytes", run->peak_bytes},
                                                   {"worker_peak_bytes", run->worker_peak_bytes}}
                                  : nlohmann::json());
    if (const auto seconds = values_of(variant, seconds_of); !seconds.empty()) {
      entry["seconds_per_iteration"] = median(seconds);
      entry["peak_bytes"] = median(values_of(variant, process_bytes));
      entry["largest_worker_peak_bytes"] = median(values_of(variant, worker_bytes));
      entry["share_of_sgemm"] = report.convolution_flops / median(seconds) / report.sgemm_flops;
    }
    json["variants"].push_back(entry);
  }
  for (const Comparison& c : report.comparisons) {
    nlohmann::json entry{{"name", c.name}, {"value", c.value}};
    if (c.bar) entry["bar"] = *c.bar, entry["bar_is"] = c.at_least ? "at least" : "at most", entry["met"] = *c.met();
    json["comparisons"].push_back(entry);
  }
  return json;
}

}  // namespace tessera::bench
