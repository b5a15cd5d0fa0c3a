// Plan → programs. `plan` must be valid for `graph`. Pure and deterministic: every machine compiles the same from the same
// values.
#pragma once

#include "program/program.hpp"
#include "program/regions.hpp"

namespace tessera::program {

// How much of a program is made: kIteration leaves out the phases that do not run in every iteration, and instead of a place for every
// buffer only says what they need at least (arena_bytes). Enough for a forecast.
enum class Extent { kWhole, kIteration };

// The program of one participant, in time and memory proportional to its own steps and what `regions` holds.
Program compile(const graph::Graph& graph, const plan::Plan& plan, const Regions& regions, Mode mode, int self,
                Extent extent = Extent::kWhole);
Program compile(const graph::Graph& graph, const plan::Plan& plan, Mode mode, int self);
// Those of all.
ProgramSet compile(const graph::Graph& graph, const plan::Plan& plan, Mode mode, Extent extent = Extent::kWhole);

// Sets first_step and last_step of every buffer from the steps, and places buffers whose lives overlap apart in one
// arena. Called by compile().
void plan_memory(Program& program);

// Sets first_step and last_step, and arena_bytes to the most that lives at one time: no arena can be smaller.
void bound_memory(Program& program);

}  // namespace tessera::program
