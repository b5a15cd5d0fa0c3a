// Bytes of a step, recomputed from what its kernel reads and writes on a small network: a convolution with batch norm,
// 3x3 on 3x8x8, and a 2x2 max-pool with or without overlap, for two samples on one device.
#include "program/work.hpp"

#include <doctest/doctest.h>

#include <map>

#include "program/compile.hpp"
#include "tests/support/random_graph.hpp"

using namespace tessera;
using program::Op;

namespace {

graph::Graph convolution_and_pool(int stride) {
  graph::Graph graph;
  graph.layers.resize(3);
  for (int node = 0; node < 3; ++node) {
    auto& l = graph.layers[static_cast<std::size_t>(node)];
    l.source = node - 1;
    if (node > 0) l.inputs = {node - 1};
  }
  auto& input = graph.layers[0];
  input.out = {3, 8, 8};
  auto& convolution = graph.layers[1];
  convolution.kind = graph::LayerKind::kConvolutional;
  convolution.out = {5, 8, 8};
  convolution.kernel = 3, convolution.pad = 1;
  convolution.batch_normalize = true;
  convolution.activation = "leaky";
  auto& pool = graph.layers[2];
  pool.kind = graph::LayerKind::kMaxpool;
  pool.out = {5, 8 / stride, 8 / stride};
  pool.kernel = 2, pool.stride = stride, pool.pad = 1;
  pool.delivered = true;
  return graph;
}

}  // namespace

TEST_CASE("memory bytes of steps equal what the kernels read and write") {
  int stride = 0;
  SUBCASE("windows apart: normalised while pooled") { stride = 2; }
  SUBCASE("windows that overlap: normalised before") { stride = 1; }
  const graph::Graph graph = convolution_and_pool(stride);
  REQUIRE(graph::validate(graph));
  const auto plan = plan::make_plan(graph, 2, testing::one_cut(graph, {}, {0}, 1));
  REQUIRE(plan);
  const auto set = program::compile(graph, *plan, program::Mode::kTrain);
  const program::Program& program = set.programs.front();

  constexpr std::uint64_t kIn = 2 * 3 * 8 * 8 * 4, kOut = 2 * 5 * 8 * 8 * 4, kWeights = 5 * 3 * 3 * 3 * 4;
  const std::uint64_t winners = kOut / 4 / static_cast<std::uint64_t>(stride * stride), pooled = 4 * winners;
  std::map<Op, std::uint64_t> expected{
      {Op::kConvolution, kIn + kWeights + kOut},
      {Op::kMoments, kOut},                             // reads
      {Op::kMaxpoolBackward, pooled + winners + kOut},  // reads deltas and winners, writes
      {Op::kNormSums, 3 * kOut},                        // reads and writes the delta, reads the stored tensor
      {Op::kNormDelta, 3 * kOut},
      {Op::kConvolutionWeights, kIn + kOut + 2 * kWeights},  // adds to the gradient
      {Op::kConvolutionData, kOut + kWeights + kIn},
      {Op::kInspect, kWeights},
      {Op::kUpdate, 4 * kWeights},  // reads and writes weights and momentum
      {Op::kMergeMoments, 5 * 3 * 8},
      {Op::kMergeSums, 5 * 2 * 8},
  };
  const std::uint64_t pool = kOut + pooled + winners;  // reads the input, writes values and winners
  if (stride == 2)
    expected.insert({Op::kNormalizeMaxpool, pool});
  else
    expected.insert({{Op::kNormalize, 2 * kOut}, {Op::kMaxpool, pool}});
  std::map<Op, int> seen;
  for (const auto& steps : program.phases)
    for (const program::Step& step : steps) {
      const auto found = expected.find(step.op);
      if (found == expected.end()) continue;
      INFO("step ", to_string(step.op));
      CHECK(program::work(graph, program, step).memory_bytes == found->second);
      ++seen[step.op];
    }
  // Every one of them is part of training such a network.
  for (const auto& [op, bytes] : expected) CHECK_MESSAGE(seen[op] > 0, to_string(op));
}
