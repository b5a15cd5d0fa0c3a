#include "program/work.hpp"

#include "graph/footprint.hpp"

namespace tessera::program {

using graph::Graph;

namespace {

constexpr std::uint64_t kFloat = sizeof(float), kHalf = 2;
std::uint64_t cells(const Box& box) { return static_cast<std::uint64_t>(box.elements()); }
// Of the filters that a step computes with.
std::uint64_t weight_bytes(const Graph& graph, int node, const geometry::Range& filters) {
  return static_cast<std::uint64_t>(graph.weights(node) / graph[node].out.c * filters.size()) * kFloat;
}

// Multiply-adds for the delta of `in` cells of a convolution's input: each gets a part from the outputs whose window it
// is in, (kernel / stride)² of them on average, of `filters` output channels.
std::uint64_t data_multiply_adds(const Graph& graph, int node, const Box& in, std::uint64_t filters) {
  const auto& layer = graph[node];
  const auto window = static_cast<std::uint64_t>(layer.kernel) * static_cast<std::uint64_t>(layer.kernel);
  const auto strides = static_cast<std::uint64_t>(layer.rows().stride * layer.columns().stride);
  return cells(in) * filters * window / strides / static_cast<std::uint64_t>(layer.groups);
}

// Bytes of tensors that a forward step over `step.box` of the output touches.
std::uint64_t forward_bytes(const Graph& graph, const Step& step) {
  const std::uint64_t out = cells(step.box) * kFloat;
  switch (step.op) {
    case Op::kConvolution:
      return out + cells(graph::input_box(graph, step.node, 0, step.box)) * kFloat + weight_bytes(graph, step.node, step.box.c);
    case Op::kMoments:
      return out;
    case Op::kMaxpool:
    case Op::kNormalizeMaxpool:
      return out + cells(graph::input_box(graph, step.node, 0, step.box)) * kFloat + (step.c < 0 ? 0 : cells(step.box));
    case Op::kShortcut:
      return 3 * out;
    case Op::kUpsample:
      return out + cells(graph::input_box(graph, step.node, 0, step.box)) * kFloat;
    default:
      return 2 * out;  // reads as much as it writes
  }
}

// Bytes of tensors that a step over `step.box` of a delta touches.
std::uint64_t backward_bytes(const Graph& graph, const Step& step) {
  const std::uint64_t delta = cells(step.box) * kFloat;
  switch (step.op) {
    case Op::kActivationDelta:
      return (step.b < 0 ? 1 : 3) * delta;
    case Op::kNormSums:
    case Op::kNormDelta:
      return 3 * delta;
    case Op::kConvolutionWeights:
      return delta + cells(graph::input_box(graph, step.node, 0, step.box)) * kFloat + 2 * weight_bytes(graph, step.node, step.box.c);
    default:
      break;
  }
  const std::uint64_t from = cells(graph::output_box(graph, step.node, step.input, step.box));
  std::uint64_t bytes = (step.accumulate ? 2 : 1) * delta + from * kFloat;
  if (step.op == Op::kMaxpoolBackward) bytes += from;
  return bytes;
}

// Elements of all arrays that a transfer moves.
std::uint64_t elements(const Step& step) {
  const auto filters = static_cast<std::uint64_t>(step.box.n.size());
  return cells(step.box) + (step.b >= 0 ? filters : 0) + (step.c >= 0 ? filters : 0);
}

}  // namespace

bool is_half(const Program& program, const Step& step) {
  if (!is_send(step) && !is_receive(step)) return false;
  return program.wire == plan::WireType::kFloat16 && program.buffer(step.a).slot <= Slot::kInputDelta &&
         program.buffer(step.a).slot != Slot::kWinners;
}

bool is_urgent(const Program& program, const Step& step) { return element_bytes(program.buffer(step.a).slot) == sizeof(double); }

std::uint64_t message_bytes(const Program& program, const Step& step) {
  if (!is_send(step) && !is_receive(step)) return 0;
  if (is_half(program, step)) return (1 + cells(step.box)) * kHalf;  // and the exponent
  return elements(step) * element_bytes(program.buffer(step.a).slot);
}

Work work(const Graph& graph, const Program& program, const Step& step) {
  const auto bytes_of = [&](int buffer) { return static_cast<std::uint64_t>(program.buffer(buffer).bytes); };
  switch (step.op) {
    case Op::kSend:
      return {0, 2 * message_bytes(program, step)};
    case Op::kReceive:
      return {0, (step.accumulate ? 3u : 2u) * message_bytes(program, step)};
    case Op::kCopy:
      return {0, (step.accumulate ? 3u : 2u) * cells(step.box) * kFloat};
    case Op::kFill:
      return {0, cells(step.box) * element_bytes(program.buffer(step.a).slot)};
    case Op::kMergeMoments:
    case Op::kMergeSums:
      return {0, bytes_of(step.a)};
    case Op::kFinishMoments:
    case Op::kFinishSums:
      return {0, 2 * bytes_of(step.a)};
    case Op::kInspect:
      return {0, cells(step.box) * kFloat};
    case Op::kUpdate:  // reads and writes weights and momentum
      return {0, 4 * cells(step.box) * kFloat};
    case Op::kConvolution:
      return {static_cast<std::uint64_t>(graph::multiply_adds(graph, step.node, step.box)), forward_bytes(graph, step)};
    case Op::kBiasActivate:
    case Op::kMoments:
    case Op::kNormalize:
    case Op::kMaxpool:
    case Op::kNormalizeMaxpool:
    case Op::kRoute:
    case Op::kShortcut:
    case Op::kUpsample:
    case Op::kReorg:
      return {0, forward_bytes(graph, step)};
    case Op::kConvolutionData: {
      const auto filters = static_cast<std::uint64_t>(program.buffer(step.a).box.c.size());
      return {data_multiply_adds(graph, step.node, step.box, filters),
              backward_bytes(graph, step) + weight_bytes(graph, step.node, program.buffer(step.a).box.c)};
    }
    case Op::kConvolutionWeights:
      return {static_cast<std::uint64_t>(graph::multiply_adds(graph, step.node, step.box)), backward_bytes(graph, step)};
    default:
      return {0, backward_bytes(graph, step)};
  }
}

}  // namespace tessera::program
