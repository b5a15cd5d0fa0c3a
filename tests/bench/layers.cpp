// The convolutions of a network one by one: speed of each pass of each layer per backend, and its share of the speed of
// sgemm measured in the same round. What the columns mean: README.md.
#include <CLI/CLI.hpp>
#include <algorithm>

#include "kernels/convolution.hpp"
#include "tests/bench/support/network.hpp"
#include "tests/bench/support/options.hpp"
#include "tests/bench/support/report.hpp"
#include "tests/bench/support/sgemm.hpp"

namespace tessera::bench {
namespace {

using geometry::Box;
using kernels::Backend;

enum Pass { kForward, kBackwardData, kBackwardWeights, kPasses };
constexpr const char* kPassNames[] = {"forward", "backward_data", "backward_weights"};

// One entry per round. Of the first layer nobody needs the gradient of the data: its times are empty.
struct LayerTimes {
  ConvolutionLayer layer;
  std::vector<double> seconds[kPasses];
  std::vector<double> share[kPasses];  // of sgemm's speed
};

std::vector<float> values(std::ptrdiff_t count) {
  std::vector<float> result(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < result.size(); ++i) result[i] = static_cast<float>(i % 251) * .01f - 1.25f;
  return result;
}

// Median of several calls; the first is not counted.
template <typename Call>
double time_of(const Call& call, double budget_seconds) {
  constexpr int kLeast = 3;
  call();
  std::vector<double> seconds;
  double total = 0;
  while (static_cast<int>(seconds.size()) < kLeast || total < budget_seconds) {
    const auto begin = base::Clock::now();
    call();
    seconds.push_back(base::seconds_between(begin, base::Clock::now()));
    total += seconds.back();
  }
  return median(seconds);
}

base::Status measure_layer(Backend backend, LayerTimes& times, int batch, base::ThreadPool& pool, double sgemm_flops) {
  constexpr double kBudget = 0.05;
  const kernels::ConvolutionShape& shape = times.layer.shape;
  const Box in = Box::whole(batch, {shape.in_c, shape.in_y, shape.in_x});
  const Box out = Box::whole(batch, {shape.out_c, shape.out_y(), shape.out_x()});
  auto input = values(in.elements()), output = values(out.elements()), weights = values(shape.weight_elements());
  auto gradient = values(shape.weight_elements());
  kernels::Scratch scratch;
  TESSERA_ASSIGN(const auto convolution, kernels::make_convolution(backend, shape, pool, scratch));
  const auto add = [&](Pass pass, const auto& call) {
    const double seconds = time_of(call, kBudget);
    times.seconds[pass].push_back(seconds);
    times.share[pass].push_back(times.layer.forward_flops() * batch / seconds / sgemm_flops);
  };
  add(kForward, [&] { convolution->forward({input.data(), in}, weights.data(), {output.data(), out}, out); });
  if (times.layer.layer > 0)
    add(kBackwardData, [&] { convolution->backward_data({output.data(), out}, weights.data(), {input.data(), in}, in, false); });
  add(kBackwardWeights, [&] { convolution->backward_weights({input.data(), in}, {output.data(), out}, out, gradient.data()); });
  return {};
}

double seconds_of(const LayerTimes& times) {
  double seconds = 0;
  for (const auto& pass : times.seconds) seconds += pass.empty() ? 0 : median(pass);
  return seconds;
}

void print_layers(const std::string& title, const std::vector<LayerTimes>& layers, int batch, double sgemm_flops) {
  double all_seconds = 0, all_flops = 0;
  for (const LayerTimes& times : layers) all_seconds += seconds_of(times);
  fmt::print("\n== {}: GFLOP/s and share of sgemm ({:.1f} GFLOP/s)\n", title, sgemm_flops * 1e-9);
  fmt::print("{:>5} {:<38} {:>7} {:>14} {:>14} {:>14} {:>8} {:>8}\n", "layer", "shape", "GFLOP", "forward", "of data", "of weights", "ms",
             "of all");
  for (const LayerTimes& times : layers) {
    const kernels::ConvolutionShape& s = times.layer.shape;
    const double flops = times.layer.forward_flops() * batch;
    std::string passes;
    for (int pass = 0; pass < kPasses; ++pass) {
      if (times.seconds[pass].empty()) {
        passes += fmt::format(" {:>14}", "-");
        continue;
      }
      all_flops += flops;
      passes += fmt::format(" {:>7.1f} {:>5.1f}%", flops / median(times.seconds[pass]) * 1e-9, 100 * median(times.share[pass]));
    }
    fmt::print("{:>5} {:<38} {:>7.2f}{} {:>8.1f} {:>7.1f}%\n", times.layer.layer,
               fmt::format("{}x{}x{} -> {}x{}x{}, {}x{}{}", s.in_y, s.in_x, s.in_c, s.out_y(), s.out_x(), s.out_c, s.kernel, s.kernel,
                           s.stride > 1 ? fmt::format("/{}", s.stride) : ""),
               flops * 1e-9, passes, seconds_of(times) * 1e3, 100 * seconds_of(times) / all_seconds);
  }
  fmt::print("{:>5} {:<38} {:>7.2f} {:>14} {:>14} {:>6.1f} {:>6.1f}% {:>8.1f}\n", "all", "", all_flops * 1e-9, "", "",
             all_flops / all_seconds * 1e-9, 100 * all_flops / all_seconds / sgemm_flops, all_seconds * 1e3);
  std::fflush(stdout);
}

nlohmann::json to_json(const std::vector<LayerTimes>& layers, int batch) {
  nlohmann::json list = nlohmann::json::array();
  for (const LayerTimes& times : layers) {
    const kernels::ConvolutionShape& s = times.layer.shape;
    nlohmann::json entry{{"layer", times.layer.layer},
                         {"in", {s.in_c, s.in_y, s.in_x}},
                         {"out", {s.out_c, s.out_y(), s.out_x()}},
                         {"kernel", s.kernel},
                         {"stride", s.stride},
                         {"flop_per_pass", times.layer.forward_flops() * batch}};
    for (int pass = 0; pass < kPasses; ++pass)
      if (!times.seconds[pass].empty())
        entry[kPassNames[pass]] = {{"seconds", median(times.seconds[pass])}, {"share_of_sgemm", median(times.share[pass])}};
    list.push_back(entry);
  }
  return list;
}

base::Result<nlohmann::json> measure(Network network, const BenchOptions& options) {
  if (options.size > 0) network.size = options.size;
  TESSERA_ASSIGN(const cfg::CfgFile file, plain_cfg(options.cfg_folder, network, 1));
  TESSERA_ASSIGN(const auto layers, convolution_layers(file));
  std::vector<std::pair<Backend, std::vector<LayerTimes>>> backends;
  for (const Backend backend : kernels::built_backends()) {
    if (backend == Backend::kReference) continue;  // minutes per layer
    backends.push_back({backend, {}});
    for (const ConvolutionLayer& layer : layers)
      if (layer.groups == 1) backends.back().second.push_back({layer, {}, {}});
  }
  base::ThreadPool pool(options.threads);
  std::vector<double> peaks;
  for (int round = 0; round < options.repeat; ++round)
    for (std::size_t i = 0; i < layers.size(); ++i) {
      // Beside each layer, because the speed of a machine changes within a round.
      peaks.push_back(measure_sgemm(options.threads));
      for (auto& [backend, times] : backends)
        if (i < times.size()) TESSERA_TRY(measure_layer(backend, times[i], network.batch, pool, peaks.back()));
    }
  nlohmann::json json{{"network", network.title()}, {"sgemm_flop_per_second", median(peaks)}};
  for (const auto& [backend, times] : backends) {
    print_layers(fmt::format("{}, {}", network.title(), kernels::to_string(backend)), times, network.batch, median(peaks));
    json["backends"][std::string(kernels::to_string(backend))] = to_json(times, network.batch);
  }
  return json;
}

int main(int argc, char** argv) {
  BenchOptions options("layers", {"yolov2-tiny"});
  CLI::App app("Times the convolutions of a network layer by layer, pass by pass, for each backend.");
  add_options(app, options);
  CLI11_PARSE(app, argc, argv);
  return run_bench(options, [&](const std::string&) -> base::Result<Outcome> {
    Outcome outcome{{{"threads", options.threads}, {"networks", nlohmann::json::array()}}, 0};
    for (const std::string& name : options.networks) {
      TESSERA_ASSIGN(const Network network, find_network(name));
      TESSERA_ASSIGN(nlohmann::json measured, measure(network, options));
      outcome.json["networks"].push_back(std::move(measured));
    }
    return outcome;
  });
}

}  // namespace
}  // namespace tessera::bench

int main(int argc, char** argv) { return tessera::bench::main(argc, argv); }
