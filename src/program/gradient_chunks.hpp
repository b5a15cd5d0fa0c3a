// How the gradient of a batch is divided among participants. Every participant computes a part of each layer's gradient
// from the boxes it owns; the parts are summed in chunks, each by its owner, who also keeps the momentum of the chunk's
// weights and updates them for all (the optimiser-state sharding of ZeRO, arXiv:1910.02054).
#pragma once

#include <vector>

#include "geometry/box.hpp"
#include "graph/graph.hpp"

namespace tessera::program {

struct GradientChunk {
  int node = 0;
  geometry::Range elements;  // of the layer's summed gradient: [out.c][in.c][kernel][kernel], then biases without batch norm
  int owner = 0;             // participant
  int round = 0;             // chunks of one round travel together, at most one for every owner
};

// Elements of a layer's gradient that are summed over participants. Gradients of batch norm are not among them: they come
// from exchanged sums and are complete everywhere. 0 for layers without weights.
geometry::Index summed_elements(const graph::Graph& graph, int node);

// In the order in which back-propagation finishes layers; within a layer by ascending elements, rounds ascending. Empty for
// one participant: nothing has to be summed.
std::vector<GradientChunk> gradient_chunks(const graph::Graph& graph, int participants);

}  // namespace tessera::program
