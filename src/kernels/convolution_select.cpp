#include "kernels/convolution_select.hpp"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>

#include "base/clock.hpp"
#include "kernels/convolution_backends.hpp"

namespace tessera::kernels {
namespace {

namespace fs = std::filesystem;

constexpr int kRuns = 3;  // of each trial; the shortest counts
constexpr double kClearlyFaster = 0.9;
constexpr std::uintmax_t kMostCacheBytes = 1 << 20;
constexpr std::size_t kMostChoices = 1000;

std::vector<float> random_values(Index count) {
  std::minstd_rand random(1);
  std::uniform_real_distribution<float> values(-1, 1);
  std::vector<float> result(static_cast<std::size_t>(count));
  for (float& value : result) value = values(random);
  return result;
}

// Data for one sample of a layer, reused for every backend.
struct Trial {
  Trial(const ConvolutionShape& shape, bool training, bool first)
      : in_box(Box::whole(1, {shape.in_c, shape.in_y, shape.in_x})),
        out_box(Box::whole(1, {shape.out_c, shape.out_y(), shape.out_x()})),
        work{out_box, training && !first ? in_box : Box{}, {}, training ? out_box : Box{}},
        input(random_values(in_box.elements())),
        output(random_values(out_box.elements())),
        weights(random_values(shape.weight_elements())),
        // Results go elsewhere: values that grow or vanish from call to call would change the timing.
        input_result(input.size()),
        output_result(output.size()),
        gradient(training ? weights.size() : 0) {}

  void run(Convolution& convolution) {
    const ConstFloatView in{input.data(), in_box}, out{output.data(), out_box};
    if (!work.forward.empty()) convolution.forward(in, weights.data(), {output_result.data(), out_box}, work.forward);
    if (!work.backward_data.empty())
      convolution.backward_data(out, weights.data(), {input_result.data(), in_box}, work.backward_data, false);
    if (!work.backward_weights.empty()) convolution.backward_weights(in, out, work.backward_weights, gradient.data());
  }

  Box in_box, out_box;
  ConvolutionWork work;
  std::vector<float> input, output, weights, input_result, output_result, gradient;
};

// Adds the seconds of one sample of the layer to each backend's total. They take turns, so that all meet the same machine.
void add_seconds(const std::vector<Backend>& candidates, const ConvolutionShape& shape, int count, Trial& trial, bool keep_packed,
                 base::ThreadPool& pool, std::map<Backend, double>& totals) {
  Scratch scratch;
  std::map<Backend, double> shortest;
  std::map<Backend, std::unique_ptr<Convolution>> convolutions;
  for (const Backend backend : candidates) {
    shortest[backend] = std::numeric_limits<double>::infinity();
    if (auto made = make_convolution(backend, shape, pool, scratch, keep_packed)) convolutions[backend] = std::move(*made);
  }
  for (int run = 0; run <= kRuns; ++run)
    for (auto& [backend, convolution] : convolutions) {
      const auto begin = base::Clock::now();
      trial.run(*convolution);
      const double seconds = base::seconds_between(begin, base::Clock::now());
      if (run > 0) shortest[backend] = std::min(shortest[backend], seconds);  // the first sets up primitives and packed weights
    }
  for (const auto& [backend, seconds] : shortest) totals[backend] += count * seconds;
}

// The largest first, equal ones together; without those that all backends leave to BLAS.
std::vector<std::pair<ConvolutionShape, int>> by_work(std::span<const ConvolutionShape> layers) {
  std::vector<std::pair<ConvolutionShape, int>> distinct;
  for (const ConvolutionShape& layer : layers) {
    if (columns_are_input(layer)) continue;
    const auto known = std::find_if(distinct.begin(), distinct.end(), [&](const auto& entry) { return entry.first == layer; });
    if (known != distinct.end())
      ++known->second;
    else
      distinct.push_back({layer, 1});
  }
  const auto work = [](const auto& entry) {
    return entry.second * entry.first.weight_elements() * entry.first.out_y() * entry.first.out_x();
  };
  std::stable_sort(distinct.begin(), distinct.end(), [&](const auto& a, const auto& b) { return work(a) > work(b); });
  return distinct;
}

Backend measure(const std::vector<Backend>& candidates, std::span<const ConvolutionShape> layers, bool training, base::ThreadPool& pool,
                double budget_seconds) {
  std::map<Backend, double> totals;
  const auto start = base::Clock::now();
  for (const auto& [shape, count] : by_work(layers)) {
    if (base::seconds_between(start, base::Clock::now()) > budget_seconds) break;
    Trial trial(shape, training, shape == layers.front());
    add_seconds(candidates, shape, count, trial, !training, pool, totals);
  }
  Backend best = candidates.back();
  for (const Backend backend : candidates)
    if (totals[backend] < (best == candidates.back() ? kClearlyFaster : 1) * totals[best]) best = backend;
  return best;
}

// What distinguishes CPUs to a reader of /proc/cpuinfo; its first processor's lines.
std::string cpu_model() {
  std::ifstream file("/proc/cpuinfo");
  std::string model;
  for (std::string line; std::getline(file, line) && !line.empty();)
    for (const char* key : {"model name", "cpu family", "model\t", "stepping", "CPU implementer", "CPU part", "CPU variant"})
      if (line.starts_with(key)) model += line.substr(line.find(':') + 1);
  return model;
}

std::string cache_key(std::span<const ConvolutionShape> layers, bool training, int threads) {
  std::string key = fmt::format("{} |{} threads | {} | {} | {} | {}", cpu_model(), threads, blas_version(), onednn_version(),
                                winograd_version(), training ? "training" : "inference");
  for (const auto& l : layers) {
    key += fmt::format(" | {}x{}x{} {} {}/{}/{}", l.in_x, l.in_y, l.in_c, l.out_c, l.kernel, l.stride, l.pad);
    if (!l.is_dense()) key += fmt::format(" {}/{}/{}", l.stride_x, l.dilation, l.groups);
  }
  return key;
}

// The choices in the file by key; empty for a file that is missing, too large or damaged.
nlohmann::json read_cache(const std::string& path) {
  std::error_code unreadable;
  const auto none = nlohmann::json::object();
  if (!fs::is_regular_file(path, unreadable) || fs::file_size(path, unreadable) > kMostCacheBytes || unreadable) return none;
  std::ifstream file(path);
  nlohmann::json choices = nlohmann::json::parse(file, nullptr, false);
  return choices.is_object() ? choices : none;
}

std::optional<Backend> remembered(const nlohmann::json& choices, const std::string& key, const std::vector<Backend>& candidates) {
  const auto found = choices.find(key);
  if (found == choices.end() || !found->is_string()) return std::nullopt;
  const auto backend = backend_from_string(found->get<std::string>());
  if (!backend || std::find(candidates.begin(), candidates.end(), *backend) == candidates.end()) return std::nullopt;
  return *backend;
}

// Readers see the old file or the new one. Several writers at once: one of them wins, the others measure again some time.
void write_cache(const std::string& path, const nlohmann::json& choices) {
  std::error_code failed;
  if (const fs::path folder = fs::path(path).parent_path(); !folder.empty()) fs::create_directories(folder, failed);
  const std::string temporary = fmt::format("{}.{}", path, ::getpid());
  {
    std::ofstream file(temporary);
    file << choices.dump(1, ' ', true, nlohmann::json::error_handler_t::replace) << '\n' << std::flush;
    if (!file) failed = std::make_error_code(std::errc::io_error);
  }
  if (!failed) fs::rename(temporary, path, failed);
  if (failed) fs::remove(temporary, failed);
}

}  // namespace

BackendChoice choose_backend(std::span<const ConvolutionShape> layers, bool training, base::ThreadPool& pool, const std::string& cache_file,
                             double budget_seconds) {
  std::vector<Backend> candidates = built_backends();
  std::erase(candidates, Backend::kReference);
  if (candidates.size() == 1 || by_work(layers).empty()) return {candidates.back(), BackendChoice::Origin::kOnlyOne};
  const std::string key = cache_key(layers, training, pool.size());
  if (!cache_file.empty())
    if (const auto known = remembered(read_cache(cache_file), key, candidates)) return {*known, BackendChoice::Origin::kRemembered};
  const Backend best = measure(candidates, layers, training, pool, budget_seconds);
  if (!cache_file.empty()) {
    nlohmann::json choices = read_cache(cache_file);  // as it is now: others may have written meanwhile
    if (choices.size() >= kMostChoices) choices.clear();
    choices[key] = std::string(to_string(best));
    write_cache(cache_file, choices);
  }
  return {best, BackendChoice::Origin::kMeasured};
}

}  // namespace tessera::kernels
