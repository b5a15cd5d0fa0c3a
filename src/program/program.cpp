#include "program/program.hpp"

namespace tessera::program {

namespace {

constexpr std::array<const char*, kPhases> kPhaseNames = {"load",  "forward", "backward", "reduce",          "update",
                                                          "share", "gather",  "scatter",  "scatter_momentum"};

constexpr std::array<const char*, 22> kSlotNames = {
    "stored",           "active",        "winners",       "delta",          "partial", "delivered",
    "external_delta",   "input_delta",   "moments",       "merged_moments", "sums",    "merged_sums",
    "gradient",         "bias_gradient", "weights",       "biases",         "scales",  "rolling_mean",
    "rolling_variance", "momentum",      "bias_momentum", "scale_momentum"};

constexpr std::array<const char*, 30> kOpNames = {"send",
                                                  "receive",
                                                  "copy",
                                                  "fill",
                                                  "conv_forward",
                                                  "bias_activate",
                                                  "batchnorm_moments",
                                                  "merge_moments",
                                                  "finish_moments",
                                                  "normalize_activate",
                                                  "maxpool_forward",
                                                  "normalize_maxpool",
                                                  "route_forward",
                                                  "shortcut_forward",
                                                  "upsample_forward",
                                                  "reorg_forward",
                                                  "conv_backward_data",
                                                  "maxpool_backward",
                                                  "route_backward",
                                                  "shortcut_backward",
                                                  "upsample_backward",
                                                  "reorg_backward",
                                                  "conv_backward_weights",
                                                  "activation_delta",
                                                  "batchnorm_sums",
                                                  "merge_sums",
                                                  "finish_sums",
                                                  "batchnorm_delta",
                                                  "inspect",
                                                  "update"};

// FNV-1a over the little-endian bytes of each value.
class Fnv {
 public:
  void add(std::uint64_t value) {
    for (int byte = 0; byte < 8; ++byte) hash_ = (hash_ ^ ((value >> (8 * byte)) & 0xff)) * 1099511628211ull;
  }
  void add(const Range& r) { add(static_cast<std::uint64_t>(r.begin)), add(static_cast<std::uint64_t>(r.end)); }
  void add(const Box& box) { add(box.n), add(box.c), add(box.y), add(box.x); }
  std::uint64_t value() const { return hash_; }

 private:
  std::uint64_t hash_ = 14695981039346656037ull;
};

}  // namespace

const char* to_string(Phase phase) { return kPhaseNames[static_cast<std::size_t>(phase)]; }
const char* to_string(Slot slot) { return kSlotNames[static_cast<std::size_t>(slot)]; }
const char* to_string(Op op) { return kOpNames[static_cast<std::size_t>(op)]; }

bool is_parameter(Slot slot) { return slot >= Slot::kWeights; }

std::size_t element_bytes(Slot slot) {
  switch (slot) {
    case Slot::kWinners:
      return 1;
    case Slot::kMoments:
    case Slot::kMergedMoments:
    case Slot::kSums:
    case Slot::kMergedSums:
      return sizeof(double);
    default:
      return sizeof(float);
  }
}

std::uint64_t fingerprint(const Program& program) {
  Fnv fnv;
  fnv.add(static_cast<std::uint64_t>(program.mode));
  fnv.add(static_cast<std::uint64_t>(program.wire));
  for (const Buffer& b : program.buffers) {
    for (int v : {b.node, static_cast<int>(b.slot), static_cast<int>(b.storage)}) fnv.add(static_cast<std::uint64_t>(v));
    fnv.add(b.box);
  }
  for (const auto& steps : program.phases) {
    fnv.add(steps.size());
    for (const Step& s : steps) {
      for (int v : {static_cast<int>(s.op), static_cast<int>(s.phase), s.node, s.input, s.a, s.b, s.c, s.peer, static_cast<int>(s.transfer),
                    static_cast<int>(s.accumulate)})
        fnv.add(static_cast<std::uint64_t>(v));
      fnv.add(s.box);
      fnv.add(s.owned);
    }
  }
  return fnv.value();
}

}  // namespace tessera::program
