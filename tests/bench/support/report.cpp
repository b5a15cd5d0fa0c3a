#include "tests/bench/support/report.hpp"

#include <algorithm>

namespace tessera::bench {
namespace {

std::vector<double> values_of(const Variant& variant, const Measure& measure) {
  std::vector<double> values;
  for (const auto& run : variant.runs)
    if (run) values.push_back(measure(*run));
  return values;
}

const char* answer(const Comparison& comparison) {
  const auto met = comparison.met();
  return !met ? "" : *met ? "yes" : "NO";
}

void print_row(const NetworkReport& report, const Variant& variant) {
  const auto seconds = values_of(variant, seconds_of);
  if (seconds.empty()) {
    fmt::print("{:<32} {:>7} {}\n", variant.name, variant.threads, variant.absent.empty() ? "failed" : variant.absent);
    return;
  }
  const auto [least, most] = std::minmax_element(seconds.begin(), seconds.end());
  const double typical = median(seconds), speed = report.convolution_flops / typical;
  const double worker = median(values_of(variant, worker_bytes));
  fmt::print("{:<32} {:>7} {:>12.3f} {:>17} {:>9.2f} {:>8.1f} {:>7.1f}% {:>9.0f} {:>11}\n", variant.name, variant.threads, typical,
             fmt::format("({:.3f} - {:.3f})", *least, *most), report.batch / typical, speed * 1e-9, 100 * speed / report.sgemm_flops,
             median(values_of(variant, process_bytes)) * 1e-6, worker > 0 ? fmt::format("{:.0f}", worker * 1e-6) : "");
}

nlohmann::json to_json(const NetworkReport& report, const Variant& variant) {
  nlohmann::json entry{{"name", variant.name}, {"threads", variant.threads}, {"runs", nlohmann::json::array()}};
  if (!variant.absent.empty()) entry["absent"] = variant.absent;
  for (const auto& run : variant.runs)
    entry["runs"].push_back(
        run ? nlohmann::json{{"seconds", run->seconds}, {"peak_bytes", run->peak_bytes}, {"worker_peak_bytes", run->worker_peak_bytes}}
            : nlohmann::json());
  if (const auto seconds = values_of(variant, seconds_of); !seconds.empty()) {
    entry["seconds_per_" + report.unit] = median(seconds);
    entry["peak_bytes"] = median(values_of(variant, process_bytes));
    entry["largest_worker_peak_bytes"] = median(values_of(variant, worker_bytes));
    entry["share_of_sgemm"] = report.convolution_flops / median(seconds) / report.sgemm_flops;
  }
  return entry;
}

}  // namespace

std::optional<bool> Comparison::met() const {
  if (!bar) return std::nullopt;
  return at_least ? value >= *bar : value <= *bar;
}

const Variant* NetworkReport::find(const std::string& name) const {
  const auto found = std::find_if(variants.begin(), variants.end(), [&](const Variant& v) { return v.name == name; });
  return found == variants.end() ? nullptr : &*found;
}

double median(std::vector<double> values) {
  const std::size_t middle = values.size() / 2;
  std::sort(values.begin(), values.end());
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

double seconds_of(const Run& run) { return median(run.seconds); }
double process_bytes(const Run& run) { return static_cast<double>(run.peak_bytes); }
double worker_bytes(const Run& run) {
  const auto& peaks = run.worker_peak_bytes;
  return peaks.empty() ? 0 : static_cast<double>(*std::max_element(peaks.begin(), peaks.end()));
}

void compare(NetworkReport& report, const std::string& name, const std::string& unit, const Variant* a, const Measure& of_a,
             const Variant* b, const Measure& of_b, Bar kind, std::optional<double> bar) {
  if (a == nullptr || b == nullptr || !a->absent.empty() || !b->absent.empty()) return;
  std::vector<double> ratios;
  for (std::size_t i = 0; i < std::min(a->runs.size(), b->runs.size()); ++i)
    if (a->runs[i] && b->runs[i]) ratios.push_back(of_a(*a->runs[i]) / of_b(*b->runs[i]));
  if (ratios.empty())
    report.notes.push_back(fmt::format("{}: not measured, a run it needs failed", name));
  else
    report.comparisons.push_back({name, unit, median(ratios), bar, kind == Bar::kAtLeast});
}

void print_table(const NetworkReport& report) {
  fmt::print("\n== {}: {:.1f} GFLOP of convolutions per {}, sgemm {:.1f} GFLOP/s\n", report.title, report.convolution_flops * 1e-9,
             report.unit, report.sgemm_flops * 1e-9);
  fmt::print("{:<32} {:>7} {:>12} {:>17} {:>9} {:>8} {:>8} {:>9} {:>11}\n", "", "threads", "s/" + report.unit, "(least - most)", "images/s",
             "GFLOP/s", "of sgemm", "peak MB", "per worker");
  for (const Variant& variant : report.variants) print_row(report, variant);
  fmt::print("\n{:<76} {:>8} {:>9} {:>5}\n", "", "measured", "bar", "met");
  for (const Comparison& c : report.comparisons)
    fmt::print("{:<76} {:>8} {:>9} {:>5}\n", c.name, fmt::format("{:.{}f}{}", c.value, c.unit.empty() ? 3 : 2, c.unit),
               c.bar ? fmt::format("{} {:g}{}", c.at_least ? ">=" : "<=", *c.bar, c.unit) : "", answer(c));
  for (const std::string& note : report.notes) fmt::print("{}\n", note);
  std::fflush(stdout);
}

nlohmann::json to_json(const NetworkReport& report) {
  nlohmann::json json{{"network", report.title},
                      {"batch", report.batch},
                      {"convolution_flop_per_" + report.unit, report.convolution_flops},
                      {"sgemm_flop_per_second", report.sgemm_flops},
                      {"notes", report.notes},
                      {"variants", nlohmann::json::array()},
                      {"comparisons", nlohmann::json::array()}};
  for (const Variant& variant : report.variants) json["variants"].push_back(to_json(report, variant));
  for (const Comparison& c : report.comparisons) {
    nlohmann::json entry{{"name", c.name}, {"value", c.value}};
    if (c.bar) entry["bar"] = *c.bar, entry["bar_is"] = c.at_least ? "at least" : "at most", entry["met"] = *c.met();
    json["comparisons"].push_back(entry);
  }
  return json;
}

}  // namespace tessera::bench
