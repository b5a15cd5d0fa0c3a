// Plan → programs. `plan` must be valid for `graph`. Pure and deterministic: every machine compiles the same from the same
// values.
#pragma once

#include "program/program.hpp"
#include "program/regions.hpp"

namespace tessera::program {

// The program of one participant, in time and memory proportional to its own steps and what `regions` holds.
Program compile(const graph::Graph& graph, const plan::Plan& plan, const Regions& regions, Mode mode, int self);
Program compile(const graph::Graph& graph, const plan::Plan& plan, Mode mode, int self);
// Those of all.
ProgramSet compile(const graph::Graph& graph, const plan::Plan& plan, Mode mode);

// Sets first_step and last_step of every buffer from the steps, and places buffers whose lives overlap apart in one
// arena. Called by compile().
void plan_memory(Program& program);

}  // namespace tessera::program
