// Programs: what one participant does for a training, as data: phases of steps, and the memory they take. Compiled from
// (graph, plan) by compile.hpp, run by exec/, timed by sim/, printed by print.hpp.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "geometry/box.hpp"
#include "graph/graph.hpp"
#include "plan/plan.hpp"

namespace tessera::program {

using geometry::Box;
using geometry::Index;
using geometry::Range;

enum class Mode : int {
  kTrain,  // forward with batch statistics, then backward
  kTest,   // forward with rolling statistics
};

// What steps are for, and so when they run:
//   load                        every pass; the senders' part may run while an earlier pass is computed
//   forward, backward           every pass
//   reduce                      a batch's last pass; its steps stand among those of backward, where their gradients are complete
//   update, share               every update. What share receives of a layer is awaited when the layer's weights are first read
//   gather                      at a checkpoint: parameters and momentum, from their homes to the host
//   scatter, scatter_momentum   at the start and after a loss: from the host to those who read or own them
enum class Phase : std::uint8_t { kLoad, kForward, kBackward, kReduce, kUpdate, kShare, kGather, kScatter, kScatterMomentum };
inline constexpr int kPhases = 9;
const char* to_string(Phase phase);

// What a buffer holds for its node.
enum class Slot : std::uint8_t {
  // Tensors, boxes (n, c, y, x).
  kStored,   // the layer's kept tensor: in training the raw convolution of a batch-normalised layer, else the output
  kActive,   // the output of a batch-normalised layer in training, made from kStored when needed
  kWinners,  // a max-pool's winner in each window, one byte
  kDelta,    // dL/d(output), turned in place into dL/d(convolution) where batch-norm and activation are undone
  kPartial,  // of a delta: what some filters of the layer above contribute, to be added up at its homes
  // The caller's, on the host: whole tensors for the layers outside the graph.
  kDelivered,      // the output
  kExternalDelta,  // the delta that those layers gave
  kInputDelta,     // the delta of an input of the graph
  // Statistics as doubles: boxes (participant, channel, 1, field).
  kMoments,        // each owner's part
  kMergedMoments,  // (0, channel, 1, field)
  kSums,
  kMergedSums,
  // By filter: boxes (filter, input channel, ky, kx), or (filter, 1, 1, 1).
  kGradient,      // this participant's part
  kBiasGradient,  // without batch norm
  kWeights,
  kBiases,
  kScales,
  kRollingMean,
  kRollingVariance,
  kMomentum,  // of weights: the history, to which the gradient of a batch is added (Darknet's weight_updates)
  kBiasMomentum,
  kScaleMomentum,
};
inline constexpr std::size_t kSlots = static_cast<std::size_t>(Slot::kScaleMomentum) + 1;
const char* to_string(Slot slot);

// Where a buffer's memory comes from.
enum class Storage : std::uint8_t {
  kArena,       // the program's; contents live from the first to the last step that names it
  kKept,        // the arena, for as long as the program is loaded; zero at first
  kCaller,      // bound from outside
  kParameters,  // of exec::Parameters, which outlive programs
};
bool is_parameter(Slot slot);

// Bytes of one element of a slot in memory and on the wire.
std::size_t element_bytes(Slot slot);

struct Buffer {
  int node = 0;
  Slot slot = Slot::kStored;
  Box box;
  std::size_t bytes = 0;
  Storage storage = Storage::kArena;
  std::size_t offset = 0;  // in the arena, kBufferAlignment-aligned
  int first_step = -1;     // in the order load, forward, backward
  int last_step = -1;
};

inline constexpr std::size_t kBufferAlignment = 64;

enum class Op : std::uint8_t {
  // a, box: source; then, where given, the filters box.n of b and c. peer, transfer
  kSend,
  // a, box: target, and of b and c. peer, transfer; accumulate
  kReceive,
  // a → b, box; accumulate
  kCopy,
  // a, box: zeros
  kFill,

  // Forward. a = input, b = output, box of the output
  kConvolution,
  kBiasActivate,      // a in place
  kMoments,           // a = stored, b = moments, box = owned: this participant's part of the layer's statistics
  kMergeMoments,      // a = moments, b = merged moments
  kFinishMoments,     // a = merged moments → mean, variance, rolling averages
  kNormalize,         // a = stored, b = active (or a itself), box; statistics of the batch (train) or rolling (test)
  kMaxpool,           // c = winners or -1
  kNormalizeMaxpool,  // the same of a = stored, normalised for the first time (kNormalize of inputs[0] is left out)
  kRoute,             // `input` says which; box of the output
  kShortcut,          // a = previous (or b itself), c = inputs[input], b = output; activation included in the last
  kUpsample,
  kReorg,

  // Backward. a = delta of the output, b = delta of inputs[input], box of the latter; accumulate
  kConvolutionData,
  kMaxpoolBackward,  // c = winners
  kRouteBackward,
  kShortcutBackward,
  kUpsampleBackward,
  kReorgBackward,
  kConvolutionWeights,  // a = input, b = delta, c = gradient or momentum: added to, box = owned box of the output
  kActivationDelta,     // a = delta, b = stored or -1 (linear), box; bias sums over `owned` added to c (convolutional only)
  kNormSums,            // a = delta, b = stored, c = sums, box: activation undone; sums over `owned`
  kMergeSums,           // a = sums, b = merged sums
  kFinishSums,          // a = merged sums; the gradients of the filters box.n are added to b = bias, c = scale momentum
  kNormDelta,           // a = delta, b = stored, box

  kInspect,  // a = momentum, box: remembers the node when something is not finite
  kUpdate,   // one optimiser step on the parameters of the filters box.n
};
const char* to_string(Op op);

struct Step {
  Op op = Op::kFill;
  Phase phase = Phase::kForward;
  int node = -1;
  int input = 0;
  int a = -1, b = -1, c = -1;  // buffers
  Box box;
  Box owned;
  int peer = -1;
  std::uint32_t transfer = 0;  // the same number at both ends: of array, peers and how many came before (compile.cpp)
  bool accumulate = false;
};

// One participant's program.
struct Program {
  Mode mode = Mode::kTrain;
  int self = 0;
  int participants = 1;
  std::vector<Buffer> buffers;
  // By phase. Those of kReduce stand in the list of kBackward.
  std::array<std::vector<Step>, kPhases> phases;
  std::size_t arena_bytes = 0;
  plan::WireType wire = plan::WireType::kFloat32;  // of the floats of tensors that kSend and kReceive move

  // Parameters that are here, by node: filters whose weights are read or owned, and those whose momentum is.
  std::vector<Range> stored_filters, home_filters;
  std::size_t parameter_bytes = 0;  // weights, biases, statistics and momentum

  const std::vector<Step>& steps(Phase phase) const { return phases[static_cast<std::size_t>(phase)]; }
  std::vector<Step>& steps(Phase phase) { return phases[static_cast<std::size_t>(phase)]; }
  const Buffer& buffer(int number) const { return buffers[static_cast<std::size_t>(number)]; }
};

// The programs of all participants for one (graph, plan, mode).
struct ProgramSet {
  Mode mode = Mode::kTrain;
  std::vector<Program> programs;
};

// Of everything that decides what this participant computes and sends; equal on all machines for equal programs (FNV-1a,
// 64 bit).
std::uint64_t fingerprint(const Program& program);

}  // namespace tessera::program
