// The convolutions of a cfg in oneDNN and nothing else: the least time a training iteration can take here. Every
// layer's forward pass, then from the last layer to the first the gradients of weights and of data (but nobody needs
// that of the pictures), with the data in the primitives' layouts already. KIND is one of
//
//   best            algorithms and layouts as the library likes them; Winograd's among them, which round differently
//   direct          sums of products only, as in Darknet; layouts as the library likes them
//   channels_last   the same with all tensors channels-last: what a network without conversions between layers could use
//
// floor_onednn CFG ITERATIONS KIND    a line per iteration in the form of Darknet's; OMP_NUM_THREADS sets the threads
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <dnnl.hpp>
#include <iterator>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/clock.hpp"
#include "tests/bench/support/network.hpp"

namespace tessera::bench {
namespace {

using dnnl::memory;
using kernels::Index;

// One pass of a layer.
struct Step {
  dnnl::primitive primitive;
  std::unordered_map<int, memory> arguments;
};

struct Kind {
  const char* name;
  dnnl::algorithm algorithm;
  memory::format_tag tensors;
};

constexpr Kind kKinds[] = {
    {"best", dnnl::algorithm::convolution_auto, memory::format_tag::any},
    {"direct", dnnl::algorithm::convolution_direct, memory::format_tag::any},
    {"channels_last", dnnl::algorithm::convolution_direct, memory::format_tag::nhwc},
};

class Floor {
 public:
  Floor(const std::vector<ConvolutionLayer>& layers, Index batch, const Kind& kind) : kind_(kind) {
    for (const ConvolutionLayer& layer : layers) add(layer, batch);
  }

  void iterate() {
    for (const Step& step : forward_) step.primitive.execute(stream_, step.arguments);
    for (auto step = backward_.rbegin(); step != backward_.rend(); ++step) step->primitive.execute(stream_, step->arguments);
    stream_.wait();
  }

 private:
  void add(const ConvolutionLayer& layer, Index batch) {
    const kernels::ConvolutionShape& s = layer.shape;
    const auto tensor = [this](const memory::dims& sizes) { return memory::desc(sizes, memory::data_type::f32, kind_.tensors); };
    const auto any = [](const memory::dims& sizes) { return memory::desc(sizes, memory::data_type::f32, memory::format_tag::any); };
    const auto image = tensor({batch, s.in_c, s.in_y, s.in_x}), result = tensor({batch, s.out_c, s.out_y(), s.out_x()});
    const auto weights = layer.groups == 1 ? any({s.out_c, s.in_c, s.kernel, s.kernel})
                                           : any({layer.groups, s.out_c / layer.groups, s.in_c / layer.groups, s.kernel, s.kernel});
    const memory::dims strides{s.stride, s.stride}, before{s.pad, s.pad};
    const auto after = [&s](Index in, Index out) { return (out - 1) * s.stride + s.kernel - in - s.pad; };
    const memory::dims behind{after(s.in_y, s.out_y()), after(s.in_x, s.out_x())};
    const dnnl::algorithm algorithm = kind_.algorithm;

    const dnnl::convolution_forward::primitive_desc forward(
        {dnnl::prop_kind::forward_training, algorithm, image, weights, result, strides, before, behind}, engine_);
    forward_.push_back({dnnl::convolution_forward(forward),
                        {{DNNL_ARG_SRC, filled(forward.src_desc())},
                         {DNNL_ARG_WEIGHTS, filled(forward.weights_desc())},
                         {DNNL_ARG_DST, filled(forward.dst_desc())}}});
    if (layer.layer > 0) {
      const dnnl::convolution_backward_data::primitive_desc data({algorithm, image, weights, result, strides, before, behind}, engine_,
                                                                 forward);
      backward_.push_back({dnnl::convolution_backward_data(data),
                           {{DNNL_ARG_DIFF_SRC, filled(data.diff_src_desc())},
                            {DNNL_ARG_WEIGHTS, filled(data.weights_desc())},
                            {DNNL_ARG_DIFF_DST, filled(data.diff_dst_desc())}}});
    }
    const dnnl::convolution_backward_weights::primitive_desc gradient({algorithm, image, weights, result, strides, before, behind}, engine_,
                                                                      forward);
    backward_.push_back({dnnl::convolution_backward_weights(gradient),
                         {{DNNL_ARG_SRC, filled(gradient.src_desc())},
                          {DNNL_ARG_DIFF_WEIGHTS, filled(gradient.diff_weights_desc())},
                          {DNNL_ARG_DIFF_DST, filled(gradient.diff_dst_desc())}}});
  }

  // Ordinary numbers: zeros and what comes with fresh memory may be faster to compute with, or to read.
  memory filled(const memory::desc& desc) {
    memory result(desc, engine_);
    auto* values = static_cast<float*>(result.get_data_handle());
    for (std::size_t i = 0; i < desc.get_size() / sizeof(float); ++i) values[i] = static_cast<float>(i % 251) * .01f - 1.25f;
    return result;
  }

  Kind kind_;
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  std::vector<Step> forward_, backward_;  // backward_ is run from its end
};

base::Status run(const std::string& cfg, int iterations, const Kind& kind) {
  TESSERA_ASSIGN(const cfg::CfgFile file, cfg::read_cfg_file(cfg));
  TESSERA_ASSIGN(const auto layers, convolution_layers(file));
  const Index batch = file.sections.front().integer("batch", 1) / file.sections.front().integer("subdivisions", 1);
  Floor floor(layers, batch, kind);
  for (int i = 1; i <= iterations; ++i) {
    const auto begin = base::Clock::now();
    floor.iterate();
    fmt::print("{}: no loss, {:.6f} seconds, {} images\n", i, base::seconds_between(begin, base::Clock::now()), i * batch);
  }
  return {};
}

int main(int argc, char** argv) {
  const auto* kind =
      std::find_if(std::begin(kKinds), std::end(kKinds), [&](const Kind& k) { return argc == 4 && argv[3] == std::string_view(k.name); });
  if (kind == std::end(kKinds) || std::atoi(argv[2]) < 1) {
    fmt::print(stderr, "usage: floor_onednn CFG ITERATIONS best|direct|channels_last\n");
    return 1;
  }
  try {
    const base::Status status = run(argv[1], std::atoi(argv[2]), *kind);
    if (status) return 0;
    fmt::print(stderr, "error: {}\n", status.error().message);
  } catch (const dnnl::error& failed) {
    fmt::print(stderr, "error: oneDNN: {}\n", failed.message);
  }
  return 1;
}

}  // namespace
}  // namespace tessera::bench

int main(int argc, char** argv) { return tessera::bench::main(argc, argv); }
