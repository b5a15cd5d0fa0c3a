// An abstract interpreter of programs: instead of numbers every cell carries what has been computed of it.
#pragma once

#include <cstdint>
#include <string>

#include "graph/graph.hpp"
#include "plan/plan.hpp"
#include "program/program.hpp"

namespace tessera::testing {

struct ProgramCheck {
  std::string failure;  // empty: the programs are right; else the first thing that is not
  std::uint64_t steps = 0;
  std::uint64_t transfers = 0;
};

// Runs all programs of the set against each other, sends being asynchronous: scatter, one pass of a batch that is also its last,
// update, share, gather. Checks that
// - no step reads a cell that is not there, or not in the state it must be in (raw or activated, delta complete or
//   not);
// - nothing is received that the receiver has already, sends and receives pair up (as many bytes, arrays and elements, in the
//   same phase), transfer numbers are unique, and everybody gets to the end;
// - statistics count every cell once, and are merged before they are used; partial deltas are added up once each;
// - every participant's gradient reaches the momentum at home once, is inspected and used there, and what was read is fresh
//   again after that; the host gathers everything once;
// - every delivered tensor and every input delta is complete at the end;
// - every phase has the steps that belong to it, and only those;
// - buffers that live at the same time do not overlap in the arena and lie inside it.
ProgramCheck check_programs(const graph::Graph& graph, const plan::Plan& plan, const program::ProgramSet& set);

}  // namespace tessera::testing
