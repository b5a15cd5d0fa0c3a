// What can be seen of one participant's program without running it. Throws std::runtime_error at what must not be.
#pragma once

#include "graph/graph.hpp"
#include "plan/plan.hpp"
#include "program/program.hpp"

namespace tessera::testing {

// Buffers have boxes and memory that fit their slots; every phase has the steps that belong to it.
void check_structure(const graph::Graph& graph, const plan::Plan& plan, const program::Program& program, int self);

// Buffers that live at the same time do not overlap in the arena and lie inside it.
void check_memory(const program::Program& program, int self);

}  // namespace tessera::testing
