// Programs: what each participant does for one pass over a batch, as data. Compiled from (graph, plan) by compile.hpp,
// run by exec/, timed by sim/, printed by print.hpp.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "geometry/box.hpp"
#include "graph/graph.hpp"
#include "plan/plan.hpp"
#include "program/gradient_chunks.hpp"

namespace tessera::program {

using geometry::Box;
using geometry::Index;

enum class Mode {
  kTrain,  // forward with batch statistics, then backward
  kTest,   // forward with rolling statistics
};

// What a buffer holds for its node.
enum class Slot : std::uint8_t {
  kStored,         // the layer's kept tensor: in training the raw convolution of a batch-normalised layer, else the output
  kActive,         // the output of a batch-normalised layer in training, made from kStored when needed
  kWinners,        // a max-pool's winner in each window, one byte
  kGradient,       // the layer's summed gradient (gradient_chunks.hpp), elements box.x, where no pass leaves it to the next
  kDelta,          // dL/d(output), turned in place into dL/d(convolution) where batch-norm and activation are undone
  kDelivered,      // coordinator: the whole output, for the layers after the range
  kExternalDelta,  // coordinator: the whole delta that those layers gave
  kInputDelta,     // coordinator: the whole delta of an input of the range
};

const char* to_string(Slot slot);

struct Buffer {
  int node = 0;
  Slot slot = Slot::kStored;
  Box box;
  std::size_t bytes = 0;
  bool external = false;   // the caller's memory (coordinator's inputs, outputs and their deltas)
  std::size_t offset = 0;  // in the arena, kBufferAlignment-aligned
  int first_step = -1;     // forward steps count from 0, backward steps after them
  int last_step = -1;
};

inline constexpr std::size_t kBufferAlignment = 64;

enum class Op : std::uint8_t {
  // a = source buffer, box, peer, transfer
  kSend,
  // a = target buffer, box, peer, transfer; accumulate
  kReceive,
  // a → b, box; accumulate
  kCopy,
  // a, box: zeros
  kFill,

  // Forward. a = input, b = output, box of the output
  kConvolution,
  kBiasActivate,  // a in place
  kMoments,       // a = stored, box = owned: this participant's part of the layer's statistics
  kSendMoments,
  kReceiveMoments,
  kMergeMoments,      // all parts → mean, variance, rolling averages
  kNormalize,         // a = stored, b = active (or a itself), box; statistics of the batch (train) or rolling (test)
  kMaxpool,           // c = winners or -1
  kNormalizeMaxpool,  // the same of a = stored, normalised for the first time (kNormalize of inputs[0] is left out)
  kRoute,             // `input` says which; box of the output
  kShortcut,          // a = previous, c = from, b = output; activation included
  kUpsample,
  kReorg,

  // Backward. a = delta of the output, b = delta of inputs[input], box of the latter; accumulate
  kConvolutionData,
  kMaxpoolBackward,  // c = winners
  kRouteBackward,
  kShortcutBackward,
  kUpsampleBackward,
  kReorgBackward,
  kConvolutionWeights,  // a = input, b = delta, c = gradient or -1 (kept by the executor), box = owned box of the output
  kActivationDelta,     // a = delta, b = stored or -1 (linear), box; bias sums over `owned` (convolutional only), c = gradient
  kNormSums,            // a = delta, b = stored, box: activation undone; sums over `owned`
  kSendSums,
  kReceiveSums,
  kMergeSums,  // all parts → bias and scale gradients
  kNormDelta,  // a = delta, b = stored, box

  // Backward, only in the last pass of a batch: the summed gradient of `node` (a = gradient or -1), elements box.x.
  kSendGradient,     // this participant's part, to the chunk's owner
  kOwnGradient,      // owner: the sum begins with its own part, or with zeros where it has none (accumulate = false)
  kReceiveGradient,  // owner: a peer's part is added to the sum
  kSendSummed,       // owner: the sum, to the coordinator
  kReceiveSummed,    // coordinator
  kDropGradient,     // this participant's part of the whole layer has been given away
};

const char* to_string(Op op);

// True for the steps that only a batch's last pass makes.
inline bool sums_gradients(Op op) { return op >= Op::kSendGradient; }

struct Step {
  Op op = Op::kFill;
  int node = -1;
  int input = 0;
  int a = -1, b = -1, c = -1;  // buffers
  Box box;
  Box owned;
  int peer = -1;
  std::uint32_t transfer = 0;  // the same number at both ends, unique in the set
  bool accumulate = false;
};

// One participant's program.
struct Program {
  std::vector<Buffer> buffers;
  std::vector<Step> forward;
  std::vector<Step> backward;  // empty in test mode
  std::size_t arena_bytes = 0;
  plan::WireType wire = plan::WireType::kFloat32;  // of the floats that kSend and kReceive move
  std::vector<geometry::Range> gradient_windows;   // [node]: elements of the summed gradient that are this participant's part
  std::shared_ptr<const Sharding> sharding;        // the same for all of a set
};

// The programs of all participants for one (graph, plan, mode).
struct ProgramSet {
  Mode mode = Mode::kTrain;
  bool single_pass = false;  // Plan::single_pass
  std::vector<Program> programs;
  std::shared_ptr<const Sharding> sharding;
};

// Bytes of one element of a slot in memory.
std::size_t element_bytes(Slot slot);

// Of everything that decides what is computed and sent; equal on all machines for equal programs (FNV-1a, 64 bit).
std::uint64_t fingerprint(const ProgramSet& set);

}  // namespace tessera::program
