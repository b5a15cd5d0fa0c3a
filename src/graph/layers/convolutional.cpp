// Convolution (kernel, strides, pad, dilation, groups), batch normalisation or biases, activation.
#include <fmt/format.h>

#include "graph/layers/kind.hpp"

namespace tessera::graph {

bool derivative_needs_input(const std::string& activation) {
  return activation == "mish" || activation == "swish" || activation == "hard_mish";
}

std::string window_fault(const Shape& in, const Layer& layer) {
  const Index total_pad = layer.kind == LayerKind::kMaxpool ? layer.pad : 2 * Index{layer.pad};
  if (layer.rows().outputs(in.y, total_pad) == layer.out.y && layer.columns().outputs(in.x, total_pad) == layer.out.x) return {};
  return fmt::format("its output of {}x{} does not follow from its input of {}x{}", layer.out.x, layer.out.y, in.x, in.y);
}

namespace {

std::string fault(const Graph& graph, const Layer& layer) {
  const Shape& in = input_shape(graph, layer);
  if (in.c % layer.groups != 0 || layer.out.c % layer.groups != 0)
    return fmt::format("{} groups of {} channels and {} filters", layer.groups, in.c, layer.out.c);
  if (derivative_needs_input(layer.activation) && !layer.batch_normalize)
    return fmt::format("activation={} without batch_normalize cannot be cut into tiles", layer.activation);
  return window_fault(in, layer);
}

Box input_box(const Graph& graph, const Layer& layer, int, const Box& out) {
  const Shape& in = input_shape(graph, layer);
  return {out.n, grouped_range(out.c, layer.out.c / layer.groups, in.c / layer.groups), input_range(layer.rows(), out.y, in.y),
          input_range(layer.columns(), out.x, in.x)};
}

Box output_box(const Graph& graph, const Layer& layer, int, const Box& in) {
  return {in.n, grouped_range(in.c, input_shape(graph, layer).c / layer.groups, layer.out.c / layer.groups),
          output_range(layer.rows(), in.y, layer.out.y), output_range(layer.columns(), in.x, layer.out.x)};
}

Index multiply_adds(const Graph& graph, const Layer& layer) {
  return input_shape(graph, layer).c / layer.groups * layer.kernel * layer.kernel;
}

bool replaces_delta(const Layer& layer) { return layer.kernel == 1; }

std::string text(const Layer& layer) {
  return fmt::format("{}x{}/{} pad {} {}{}{}", layer.kernel, layer.kernel, layer.stride, layer.pad,
                     layer.groups > 1 ? fmt::format("groups {} ", layer.groups) : "", layer.batch_normalize ? "bn " : "", layer.activation);
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
