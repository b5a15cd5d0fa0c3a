// Follows the steps that sum gradients through a set of programs: who has which participants' parts of which elements.
#pragma once

#include <map>
#include <set>
#include <string>
#include <tuple>
#include <utility>

#include "plan/plan.hpp"
#include "program/gradient_chunks.hpp"
#include "program/program.hpp"

namespace tessera::testing {

// Every function throws std::runtime_error at what must not happen.
class GradientSumCheck {
 public:
  GradientSumCheck(const graph::Graph& graph, const plan::Plan& plan, const program::Sharding& sharding);

  // The participant has computed its part of the gradient of a layer's weights.
  void computed(int participant, int node) { computed_.insert({participant, node}); }
  // False: it must wait.
  bool step(int participant, const program::Step& step);
  // The coordinator has the whole sum of every layer, and nothing is on its way.
  void finish() const;

 private:
  using Parts = std::set<int>;  // participants
  struct Message {
    program::Op op;
    int from, to, node;
    geometry::Range elements;
    Parts parts;
  };

  bool computes(int participant, int node) const { return !plan_.box(node, participant).empty(); }
  // Computes some of these elements: where a layer is cut along channels, those of its own filters.
  bool gives(int participant, const program::GradientChunk& chunk) const;
  Parts wanted(const program::GradientChunk& chunk) const;
  const program::GradientChunk& chunk(const program::Step& step) const;
  void send(int participant, const program::Step& step, const Parts& parts);

  const graph::Graph& graph_;
  const plan::Plan& plan_;
  std::map<std::pair<int, geometry::Index>, program::GradientChunk> chunks_;  // by node and first element
  std::set<std::pair<int, int>> computed_, dropped_;                          // participant, node
  std::map<std::pair<int, geometry::Index>, Parts> sums_, gathered_;          // with the owner; with the coordinator
  std::set<std::tuple<int, int, geometry::Index>> given_;                     // participant, node, first element
  std::map<std::uint32_t, Message> messages_;
};

}  // namespace tessera::testing
