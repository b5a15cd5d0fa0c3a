// Convolution (kernel, stride, pad), batch normalisation or biases, activation.
#include <fmt/format.h>

#include "graph/layers/kind.hpp"

namespace tessera::graph {

std::string window_fault(const Shape& in, const Layer& layer) {
  const Index total_pad = layer.kind == LayerKind::kMaxpool ? layer.pad : 2 * Index{layer.pad};
  for (auto [size, out] : {std::pair{in.y, layer.out.y}, std::pair{in.x, layer.out.x}})
    if (size + total_pad < layer.kernel || (size + total_pad - layer.kernel) / layer.stride + 1 != out)
      return fmt::format("its output of {}x{} does not follow from its input of {}x{}", layer.out.x, layer.out.y, in.x, in.y);
  return {};
}

namespace {

std::string fault(const Graph& graph, const Layer& layer) { return window_fault(input_shape(graph, layer), layer); }

Box input_box(const Graph& graph, const Layer& layer, int, const Box& out) {
  const Shape& in = input_shape(graph, layer);
  return {out.n, {0, in.c}, input_range(layer.window(), out.y, in.y), input_range(layer.window(), out.x, in.x)};
}

Box output_box(const Graph&, const Layer& layer, int, const Box& in) {
  return {in.n, {0, layer.out.c}, output_range(layer.window(), in.y, layer.out.y), output_range(layer.window(), in.x, layer.out.x)};
}

Index multiply_adds(const Graph& graph, const Layer& layer) { return input_shape(graph, layer).c * layer.kernel * layer.kernel; }

bool replaces_delta(const Layer& layer) { return layer.kernel == 1; }

std::string text(const Layer& layer) {
  return fmt::format("{}x{}/{} pad {} {}{}", layer.kernel, layer.kernel, layer.stride, layer.pad, layer.batch_normalize ? "bn " : "",
                     layer.activation);
}

}  // namespace

constinit const Kind kConvolutionalKind{.name = "convolutional",
                                        .fault = fault,
                                        .input_box = input_box,
                                        .output_box = output_box,
                                        .multiply_adds = multiply_adds,
                                        .replaces_delta = replaces_delta,
                                        .activates = true,
                                        .text = text};

}  // namespace tessera::graph
