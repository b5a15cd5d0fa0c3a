#include "program/work.hpp"

#include "graph/footprint.hpp"

namespace tessera::program {

using graph::Graph;

namespace {

constexpr std::uint64_t kFloat = sizeof(float), kHalf = 2;
// Doubles per channel in the messages of batch norm: count, mean and squares; Σδ and Σδ(x − mean).
constexpr std::uint64_t kMomentFields = 3, kSumFields = 2;

std::uint64_t cells(const Box& box) { return static_cast<std::uint64_t>(box.elements()); }
std::uint64_t channels(const Graph& graph, int node) { return static_cast<std::uint64_t>(graph[node].out.c); }
std::uint64_t weight_bytes(const Graph& graph, int node) { return static_cast<std::uint64_t>(graph.weights(node)) * kFloat; }

// Multiply-adds for the delta of `in` cells of a convolution's input: each gets a part from the outputs whose window it
// is in, (kernel / stride)² of them on average, in every output channel.
std::uint64_t data_multiply_adds(const Graph& graph, int node, const Box& in) {
  const auto& layer = graph[node];
  const auto window = static_cast<std::uint64_t>(layer.kernel) * static_cast<std::uint64_t>(layer.kernel);
  const auto stride = static_cast<std::uint64_t>(layer.stride) * static_cast<std::uint64_t>(layer.stride);
  return cells(in) * channels(graph, node) * window / stride;
}

// Bytes of tensors that a forward step over `step.box` of the output touches.
std::uint64_t forward_bytes(const Graph& graph, const Step& step) {
  const std::uint64_t out = cells(step.box) * kFloat;
  switch (step.op) {
    case Op::kConvolution:
      return out + cells(graph::input_box(graph, step.node, 0, step.box)) * kFloat + weight_bytes(graph, step.node);
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
      return delta + cells(graph::input_box(graph, step.node, 0, step.box)) * kFloat + 2 * weight_bytes(graph, step.node);
    default:
      break;
  }
  const std::uint64_t from = cells(graph::output_box(graph, step.node, step.input, step.box));
  std::uint64_t bytes = (step.accumulate ? 2 : 1) * delta + from * kFloat;
  if (step.op == Op::kMaxpoolBackward) bytes += from;
  if (step.op == Op::kConvolutionData) bytes += weight_bytes(graph, step.node);
  return bytes;
}

bool is_moments_message(Op op) { return op == Op::kSendMoments || op == Op::kReceiveMoments; }

}  // namespace

bool is_send(Op op) {
  return op == Op::kSend || op == Op::kSendMoments || op == Op::kSendSums || op == Op::kSendGradient || op == Op::kSendSummed;
}
bool is_receive(Op op) {
  return op == Op::kReceive || op == Op::kReceiveMoments || op == Op::kReceiveSums || op == Op::kReceiveGradient ||
         op == Op::kReceiveSummed;
}

bool is_half(const Program& program, const Step& step) {
  if (step.op != Op::kSend && step.op != Op::kReceive) return false;
  return program.wire == plan::WireType::kFloat16 && program.buffers[static_cast<std::size_t>(step.a)].slot != Slot::kWinners;
}

std::uint64_t message_bytes(const Graph& graph, const Program& program, const Step& step) {
  if (!is_send(step.op) && !is_receive(step.op)) return 0;
  if (is_half(program, step)) return (1 + cells(step.box)) * kHalf;  // and the exponent
  if (step.op == Op::kSend || step.op == Op::kReceive)
    return cells(step.box) * element_bytes(program.buffers[static_cast<std::size_t>(step.a)].slot);
  if (sums_gradients(step.op)) return cells(step.box) * kFloat;
  return channels(graph, step.node) * sizeof(double) * (is_moments_message(step.op) ? kMomentFields : kSumFields);
}

Work work(const Graph& graph, const Program& program, const Step& step, int participants) {
  const auto parts = static_cast<std::uint64_t>(participants);
  switch (step.op) {
    case Op::kSend:
    case Op::kSendMoments:
    case Op::kReceiveMoments:
    case Op::kSendSums:
    case Op::kReceiveSums:
    case Op::kSendGradient:
    case Op::kSendSummed:
    case Op::kReceiveSummed:
      return {0, 2 * message_bytes(graph, program, step)};
    case Op::kReceiveGradient:
      return {0, 3 * message_bytes(graph, program, step)};
    case Op::kOwnGradient:
      return {0, (step.accumulate ? 2u : 1u) * cells(step.box) * kFloat};
    case Op::kDropGradient:
      return {0, 0};
    case Op::kReceive:
      return {0, (step.accumulate ? 3u : 2u) * message_bytes(graph, program, step)};
    case Op::kCopy:
      return {0, (step.accumulate ? 3u : 2u) * cells(step.box) * kFloat};
    case Op::kFill:
      return {0, cells(step.box) * kFloat};
    case Op::kMergeMoments:
      return {0, parts * channels(graph, step.node) * sizeof(double) * kMomentFields};
    case Op::kMergeSums:
      return {0, parts * channels(graph, step.node) * sizeof(double) * kSumFields};
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
    case Op::kConvolutionData:
      return {data_multiply_adds(graph, step.node, step.box), backward_bytes(graph, step)};
    case Op::kConvolutionWeights:
      return {static_cast<std::uint64_t>(graph::multiply_adds(graph, step.node, step.box)), backward_bytes(graph, step)};
    default:
      return {0, backward_bytes(graph, step)};
  }
}

}  // namespace tessera::program
