// Random graphs of wrapped layers and random ways to cut them, for property tests.
#pragma once

#include <string>

#include "graph/graph.hpp"
#include "plan/plan.hpp"
#include "tests/support/random.hpp"

namespace tessera::testing {

// A valid graph of up to `most_layers` layers over small tensors: every layer kind, windows of size 1 to 7, stride 1 to
// 3 and any padding, pools of 2/2, 2/1, 5, 9 and 13, joins and shortcuts (also of different shapes), reorg both ways,
// one or two inputs, some layers below a `stopbackward`, some delivered.
graph::Graph random_graph(Rng& rng, int most_layers);

// The whole graph cut one way; the cells go to `participants`.
plan::Layout one_cut(const graph::Graph& graph, geometry::GridShares cut, std::vector<int> participants, int participant_count);

// Segments, each cut in one of the usual forms, often with unequal (now and then zero) shares, dealt to participants in any
// order; participant 0, the host, may own nothing. Any forward starts and backward ends.
plan::Layout random_layout(Rng& rng, const graph::Graph& graph, geometry::Index batch);

// A plan in which every array is cut on its own, tensors along any of n, c, y and x, and dealt out anew: what no layout
// gives, but a plan may say. `anywhere`: host and makers of inputs, too; else both are participant 0.
plan::Plan random_free_plan(Rng& rng, const graph::Graph& graph, geometry::Index batch, bool anywhere = false);

// One line per layer, for the message of a failed test.
std::string describe(const graph::Graph& graph);
std::string describe(const plan::Plan& plan);

}  // namespace tessera::testing
