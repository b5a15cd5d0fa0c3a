// Convolution of the layers of yolov2-tiny at 416 x 416, batch 8, and of some 1 x 1 layers of YOLOv2, per backend and pass, against the speed of plain sgemm
// measured in the same run; and the fused passes around it as memory bandwidth.
// TESSERA_BENCH_THREADS sets the threads (default: all cores).
#include <benchmark/benchmark.h>
#include <cblas.h>
#include <fmt/format.h>

#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.hpp"
#include "kernels/batch_norm.hpp"
#include "kernels/convolution.hpp"
#include "kernels/pool.hpp"
#include "kernels/update.hpp"

namespace tessera::kernels {
namespace {

constexpr Index kBatch = 8;

struct Layer {
  const char* name;
  ConvolutionShape shape;
};

const std::vector<Layer> kLayers{
    {"conv0", {3, 416, 416, 16, 3, 1, 1}},    {"conv2", {16, 208, 208, 32, 3, 1, 1}},   {"conv4", {32, 104, 104, 64, 3, 1, 1}},
    {"conv6", {64, 52, 52, 128, 3, 1, 1}},    {"conv8", {128, 26, 26, 256, 3, 1, 1}},   {"conv10", {256, 13, 13, 512, 3, 1, 1}},
    {"conv12", {512, 13, 13, 1024, 3, 1, 1}}, {"conv13", {1024, 13, 13, 512, 3, 1, 1}}, {"conv14", {512, 13, 13, 425, 1, 1, 0}},
    {"1x1_52", {128, 52, 52, 64, 1, 1, 0}},   {"1x1_26", {256, 26, 26, 128, 1, 1, 0}},  {"1x1_13", {1024, 13, 13, 512, 1, 1, 0}},
};

int thread_count() {
  const char* text = std::getenv("TESSERA_BENCH_THREADS");
  return text != nullptr ? std::max(1, std::atoi(text)) : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

base::ThreadPool& pool() {
  static base::ThreadPool threads(thread_count());
  return threads;
}

std::vector<float> values(Index count) {
  std::vector<float> result(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < result.size(); ++i) result[i] = static_cast<float>(i % 251) * .01f - 1.25f;
  return result;
}

void report_flops(benchmark::State& state, double per_iteration) {
  state.counters["GFLOP/s"] = benchmark::Counter(per_iteration * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

// Every thread multiplies matrices of its own: the most that `blas` can reach.
void gemm_peak(benchmark::State& state) {
  openblas_set_num_threads(1);
  constexpr int kSize = 768;
  const auto a = values(kSize * kSize), b = values(kSize * kSize);
  std::vector<std::vector<float>> c(static_cast<std::size_t>(pool().size()), values(kSize * kSize));
  for (auto _ : state)
    pool().parallel_for(pool().size(), [&](std::ptrdiff_t index, int) {
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, kSize, kSize, kSize, 1, a.data(), kSize, b.data(), kSize, 0,
                  c[static_cast<std::size_t>(index)].data(), kSize);
    });
  report_flops(state, 2. * kSize * kSize * kSize * pool().size());
}

enum class Pass { kForward, kBackwardData, kBackwardWeights };

void convolution(benchmark::State& state, Backend backend, const Layer& layer, Pass pass) {
  const ConvolutionShape& shape = layer.shape;
  const Box in = Box::whole(kBatch, {shape.in_c, shape.in_y, shape.in_x}),
            out = Box::whole(kBatch, {shape.out_c, shape.out_y(), shape.out_x()});
  auto input = values(in.elements()), output = values(out.elements()), weights = values(shape.weight_elements());
  auto gradient = values(shape.weight_elements());
  Scratch scratch;
  auto made = make_convolution(backend, shape, pool(), scratch);
  if (!made) {
    state.SkipWithError(made.error().message.c_str());
    return;
  }
  std::int64_t calls = 0;
  for (auto _ : state) switch (++calls; pass) {
      case Pass::kForward:
        (*made)->forward({input.data(), in}, weights.data(), {output.data(), out}, out);
        break;
      case Pass::kBackwardData:
        (*made)->backward_data({output.data(), out}, weights.data(), {input.data(), in}, in, false);
        break;
      case Pass::kBackwardWeights:
        (*made)->backward_weights({input.data(), in}, {output.data(), out}, out, gradient.data());
        break;
    }
  report_flops(state, 2. * static_cast<double>(shape.in_c * shape.kernel * shape.kernel) * static_cast<double>(out.elements()));
  state.counters["converted_MB"] = static_cast<double>((*made)->conversion_bytes()) * 1e-6 / static_cast<double>(calls);
  state.counters["scratch_MB"] = static_cast<double>(scratch.bytes()) * 1e-6;
}

// What the threads reach together with y = 0.9 x, tensors read and written that no cache holds: the floor of a pass. The
// best of a few, measured once.
double memory_bytes_per_second() {
  static const double best = [] {
    constexpr Index kFloats = Index{1} << 25, kTasks = 64;
    const auto x = values(kFloats);
    auto y = values(kFloats);
    double seconds = 1e9;
    for (int round = 0; round < 7; ++round) {
      const auto start = base::Clock::now();
      pool().parallel_for(kTasks, [&](std::ptrdiff_t task, int) {
        const float* __restrict from = x.data() + task * (kFloats / kTasks);
        float* __restrict to = y.data() + task * (kFloats / kTasks);
        for (Index i = 0; i < kFloats / kTasks; ++i) to[i] = .9f * from[i];
      });
      benchmark::DoNotOptimize(y.data());
      seconds = std::min(seconds, base::seconds_between(start, base::Clock::now()));
    }
    return 2. * 4 * static_cast<double>(kFloats) / seconds;
  }();
  return best;
}

void report_bandwidth(benchmark::State& state, double bytes_per_iteration) {
  state.SetBytesProcessed(static_cast<std::int64_t>(static_cast<double>(state.iterations()) * bytes_per_iteration));
  state.counters["of_memory"] =
      benchmark::Counter(bytes_per_iteration / memory_bytes_per_second(), benchmark::Counter::kIsIterationInvariantRate);
}

// `passes`: how often the cells of one tensor are read or written.
void report_bytes(benchmark::State& state, const Box& box, double passes) {
  report_bandwidth(state, static_cast<double>(box.elements()) * 4 * passes);
}

struct Tensors {
  Box box = Box::whole(kBatch, {16, 416, 416});
  std::vector<float> x = values(box.elements()), y = values(box.elements());
  std::vector<float> mean = std::vector<float>(16), variance = std::vector<float>(16, 1), scales = variance, biases = mean;
  NormParameters parameters{mean.data(), variance.data(), scales.data(), biases.data(), Activation::kLeaky};
  std::vector<ChannelSums> sums = std::vector<ChannelSums>(16);
};

void bm_moments(benchmark::State& state) {
  Tensors t;
  std::vector<ChannelMoments> out(16);
  for (auto _ : state) moments({t.x.data(), t.box}, t.box, out, pool());
  report_bytes(state, t.box, 1);
}

void bm_normalize(benchmark::State& state) {
  Tensors t;
  for (auto _ : state) normalize_activate({t.x.data(), t.box}, t.parameters, {t.y.data(), t.box}, t.box, pool());
  report_bytes(state, t.box, 2);
}

void bm_delta_sums(benchmark::State& state) {
  Tensors t;
  for (auto _ : state) activation_delta_sums({t.y.data(), t.box}, {t.x.data(), t.box}, t.parameters, t.box, t.box, t.sums, pool());
  report_bytes(state, t.box, 3);
}

void bm_normalize_delta(benchmark::State& state) {
  Tensors t;
  for (auto _ : state) normalize_delta({t.y.data(), t.box}, {t.x.data(), t.box}, t.parameters, t.sums, 1e6, t.box, pool());
  report_bytes(state, t.box, 3);
}

void bm_maxpool(benchmark::State& state, bool forward) {
  Tensors t;
  const PoolShape shape{416, 416, 2, 2, 1};
  const Box out = Box::whole(kBatch, {16, 208, 208});
  std::vector<float> small = values(out.elements());
  std::vector<std::uint8_t> places(small.size());
  maxpool_forward(shape, {t.x.data(), t.box}, {small.data(), out}, {places.data(), out}, out, pool());
  for (auto _ : state) {
    if (forward) {
      maxpool_forward(shape, {t.x.data(), t.box}, {small.data(), out}, {places.data(), out}, out, pool());
    } else {
      maxpool_backward(shape, {small.data(), out}, {places.data(), out}, {t.x.data(), t.box}, t.box, false, pool());
    }
  }
  report_bytes(state, t.box, 1.3);
}

void bm_normalize_maxpool(benchmark::State& state) {
  Tensors t;
  const Box out = Box::whole(kBatch, {16, 208, 208});
  std::vector<float> small = values(out.elements());
  std::vector<std::uint8_t> places(small.size());
  for (auto _ : state)
    normalize_maxpool_forward({416, 416, 2, 2, 1}, {t.x.data(), t.box}, t.parameters, {small.data(), out}, {places.data(), out}, out,
                              pool());
  report_bytes(state, t.box, 1.3);
}

void bm_update(benchmark::State& state) {
  auto weights = values(1 << 24), updates = values(1 << 24), gradient = values(1 << 24);
  for (auto _ : state) update_weights({1e-9f, .9f, .0005f, 64}, weights, updates, gradient, pool());
  report_bandwidth(state, 5. * 4 * (1 << 24));
}

void register_all() {
  const auto add = [](const std::string& name, const auto& body) {
    benchmark::RegisterBenchmark(name.c_str(), body)->UseRealTime()->Unit(benchmark::kMillisecond);
  };
  add("gemm_peak", gemm_peak);
  for (const Backend backend : built_backends()) {
    if (backend == Backend::kReference) continue;  // minutes per layer
    for (const Layer& layer : kLayers)
      for (const auto& [pass, name] :
           {std::pair{Pass::kForward, "forward"}, {Pass::kBackwardData, "backward_data"}, {Pass::kBackwardWeights, "backward_weights"}}) {
        if (pass == Pass::kBackwardData && layer.shape.in_c == 3) continue;  // the first layer's input needs no delta
        add(fmt::format("{}/{}/{}", to_string(backend), layer.name, name),
            [backend, &layer, pass = pass](benchmark::State& state) { convolution(state, backend, layer, pass); });
      }
  }
  add("moments", bm_moments);
  add("normalize_activate", bm_normalize);
  add("activation_delta_sums", bm_delta_sums);
  add("normalize_delta", bm_normalize_delta);
  add("maxpool/forward", [](benchmark::State& state) { bm_maxpool(state, true); });
  add("normalize_maxpool", bm_normalize_maxpool);
  add("maxpool/backward", [](benchmark::State& state) { bm_maxpool(state, false); });
  add("update", bm_update);
}

}  // namespace
}  // namespace tessera::kernels

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  tessera::kernels::register_all();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
