// What a step costs, independent of the device: arithmetic, memory traffic and bytes on the wire.
#pragma once

#include "graph/graph.hpp"
#include "program/program.hpp"

namespace tessera::program {

struct Work {
  std::uint64_t multiply_adds = 0;  // of convolutions, also in back-propagation
  std::uint64_t memory_bytes = 0;   // tensors, weights and messages read and written, each once
};

// Of one step. A send packs its message, a receive unpacks it.
Work work(const graph::Graph& graph, const Program& program, const Step& step);

// Whether a kSend or kReceive step moves floats in half precision (kernels/half.hpp says how).
bool is_half(const Program& program, const Step& step);

inline bool is_send(const Step& step) { return step.op == Op::kSend; }
inline bool is_receive(const Step& step) { return step.op == Op::kReceive; }
// A small message that others wait for, not to be queued behind tensors.
bool is_urgent(const Program& program, const Step& step);

// Payload of the message a step sends or receives; 0 for other steps.
std::uint64_t message_bytes(const Program& program, const Step& step);

}  // namespace tessera::program
