// What a step costs, independent of the device: arithmetic, memory traffic and bytes on the wire.
#pragma once

#include "graph/graph.hpp"
#include "program/program.hpp"

namespace tessera::program {

struct Work {
  std::uint64_t multiply_adds = 0;  // of convolutions, also in back-propagation
  std::uint64_t memory_bytes = 0;   // tensors, weights and messages read and written, each once
};

// Of one step of a participant of a set of `participants`. A send packs its message, a receive unpacks it.
Work work(const graph::Graph& graph, const Program& program, const Step& step, int participants);

// Whether a kSend or kReceive step moves floats in half precision (kernels/half.hpp says how).
bool is_half(const Program& program, const Step& step);

bool is_send(Op op);
bool is_receive(Op op);

// Payload of the message a step sends or receives; 0 for other steps.
std::uint64_t message_bytes(const graph::Graph& graph, const Program& program, const Step& step);

}  // namespace tessera::program
