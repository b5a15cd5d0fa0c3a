// Graphs, plans and programs as text for people: what will happen, before it does.
#pragma once

#include <string>
#include <vector>

#include "graph/graph.hpp"
#include "plan/plan.hpp"
#include "program/program.hpp"

namespace tessera::program {

// How participants are called, by number. As many as the plan has.
using Names = std::vector<std::string>;

// "coordinator", "worker 1", ...
Names default_names(int participants);

// "layer 7 (maxpool)", "input".
std::string layer_name(const graph::Graph& graph, int node);

// One line per layer: kind, window, output, multiply-adds per sample, and the fused group of either direction.
std::string layers_table(const graph::Graph& graph, const plan::Plan& plan);

// One line per participant: what it owns of the largest map, multiply-adds, what it fetches, messages, planned memory.
std::string devices_table(const graph::Graph& graph, const plan::Plan& plan, const ProgramSet& set, const Names& names);

// Every step and every buffer of one participant.
std::string program_text(const graph::Graph& graph, const ProgramSet& set, int participant, const Names& names);

}  // namespace tessera::program
