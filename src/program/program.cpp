#include "program/program.hpp"

#include <array>

namespace tessera::program {

namespace {

constexpr std::array<const char*, 8> kSlotNames = {"stored", "active",    "winners",        "gradient",
                                                   "delta",  "delivered", "external_delta", "input_delta"};

constexpr std::array<const char*, 36> kOpNames = {"send",
                                                  "receive",
                                                  "copy",
                                                  "fill",
                                                  "conv_forward",
                                                  "bias_activate",
                                                  "batchnorm_moments",
                                                  "send_moments",
                                                  "receive_moments",
                                                  "merge_moments",
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
                                                  "send_sums",
                                                  "receive_sums",
                                                  "merge_sums",
                                                  "batchnorm_delta",
                                                  "send_gradient",
                                                  "own_gradient",
                                                  "receive_gradient",
                                                  "send_summed",
                                                  "receive_summed",
                                                  "drop_gradient"};

// FNV-1a over the little-endian bytes of each value.
class Fnv {
 public:
  void add(std::uint64_t value) {
    for (int byte = 0; byte < 8; ++byte) hash_ = (hash_ ^ ((value >> (8 * byte)) & 0xff)) * 1099511628211ull;
  }
  void add(const Box& box) {
    for (const auto& r : {box.n, box.c, box.y, box.x}) add(static_cast<std::uint64_t>(r.begin)), add(static_cast<std::uint64_t>(r.end));
  }
  std::uint64_t value() const { return hash_; }

 private:
  std::uint64_t hash_ = 14695981039346656037ull;
};

void add_steps(Fnv& fnv, const std::vector<Step>& steps) {
  fnv.add(steps.size());
  for (const Step& s : steps) {
    for (int v :
         {static_cast<int>(s.op), s.node, s.input, s.a, s.b, s.c, s.peer, static_cast<int>(s.transfer), static_cast<int>(s.accumulate)})
      fnv.add(static_cast<std::uint64_t>(v));
    fnv.add(s.box);
    fnv.add(s.owned);
  }
}

}  // namespace

const char* to_string(Slot slot) { return kSlotNames[static_cast<std::size_t>(slot)]; }

const char* to_string(Op op) { return kOpNames[static_cast<std::size_t>(op)]; }

std::size_t element_bytes(Slot slot) { return slot == Slot::kWinners ? 1 : sizeof(float); }

std::uint64_t fingerprint(const ProgramSet& set) {
  Fnv fnv;
  fnv.add(static_cast<std::uint64_t>(set.mode));
  for (const Program& program : set.programs) {
    fnv.add(static_cast<std::uint64_t>(program.wire));
    for (const Buffer& b : program.buffers) {
      fnv.add(static_cast<std::uint64_t>(b.node));
      fnv.add(static_cast<std::uint64_t>(b.slot));
      fnv.add(b.box);
    }
    add_steps(fnv, program.forward);
    add_steps(fnv, program.backward);
  }
  return fnv.value();
}

}  // namespace tessera::program
