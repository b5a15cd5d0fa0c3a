// Plan → one program per participant.
#pragma once

#include "program/program.hpp"

namespace tessera::program {

// `plan` must be valid for `graph`. Pure and deterministic: every machine compiles the same set from the same values.
ProgramSet compile(const graph::Graph& graph, const plan::Plan& plan, Mode mode);

// Sets first_step and last_step of every buffer from the steps, and places buffers whose lives overlap apart in one
// arena. Called by compile().
void plan_memory(Program& program);

}  // namespace tessera::program
