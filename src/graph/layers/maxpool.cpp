// The largest cell of each window (kernel, strides, pad in total).
#include <fmt/format.h>

#include "graph/layers/kind.hpp"

namespace tessera::graph {
namespace {

constexpr int kLargestKernel = 15;  // a winner's place in its window is kept in a byte

std::string fault(const Graph& graph, const Layer& layer) {
  const Shape& in = input_shape(graph, layer);
  if (layer.kernel > kLargestKernel) return fmt::format("size {} is larger than {}", layer.kernel, kLargestKernel);
  if (layer.out.c != in.c) return fmt::format("{} channels from {}", layer.out.c, in.c);
  // A window that sees nothing of its input has no maximum.
  if (layer.rows().begin(layer.out.y - 1) >= in.y || layer.columns().begin(layer.out.x - 1) >= in.x || layer.kernel <= layer.pad / 2)
    return fmt::format("a window of size {} stride {} padding {} lies outside its input", layer.kernel, layer.stride, layer.pad);
  return window_fault(in, layer);
}

Box input_box(const Graph& graph, const Layer& layer, int, const Box& out) {
  const Shape& in = input_shape(graph, layer);
  return {out.n, out.c, input_range(layer.rows(), out.y, in.y), input_range(layer.columns(), out.x, in.x)};
}

Box output_box(const Graph&, const Layer& layer, int, const Box& in) {
  return {in.n, in.c, output_range(layer.rows(), in.y, layer.out.y), output_range(layer.columns(), in.x, layer.out.x)};
}

std::string text(const Layer& layer) { return fmt::format("{}x{}/{}", layer.kernel, layer.kernel, layer.stride); }

}  // namespace

constinit const Kind kMaxpoolKind{.name = "maxpool", .fault = fault, .input_box = input_box, .output_box = output_box, .text = text};

}  // namespace tessera::graph
