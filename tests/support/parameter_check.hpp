// Follows parameters, gradients and momentum through a set of programs: whose values and which participants' parts are where.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "plan/plan.hpp"
#include "program/program.hpp"

namespace tessera::testing {

// Of a cell; 0 means that nothing has been written.
using State = std::uint64_t;

// Every function throws std::runtime_error at what must not happen.
class ParameterCheck {
 public:
  // The host has everything, the others nothing.
  ParameterCheck(const graph::Graph& graph, const plan::Plan& plan, const program::ProgramSet& set);

  // Cells of the array of all filters behind a slot.
  State* cells(int participant, int node, program::Slot slot);

  // A step computes with these filters' values.
  void read(int participant, int node, program::Slot slot, geometry::Range filters);
  // What `from` has of one element of filter `filter`, before it gives it in this phase.
  void require_given(int from, program::Phase phase, int node, program::Slot slot, geometry::Index filter, State state) const;
  // It comes to `to`. `element`: of the array, when the host collects it.
  void take(int to, program::Phase phase, int node, program::Slot slot, geometry::Index filter, State& state);
  void collect(int node, program::Slot slot, std::size_t element);

  // A cell of a participant's own gradient: computed, given to its home (and then to be zeroed).
  static void compute_part(State& state);
  void give_part(int participant, int node, State& state) const;
  static void zero_part(State& state);
  static bool is_zero(State state);
  // The part of `from` is added to a cell of the momentum at home.
  void contribute(int home, int from, int node, program::Slot slot, geometry::Index filter, State& state);
  // The total of all (gradients of batch norm).
  void contribute_total(int home, int node, geometry::Range filters);

  void finish_moments(int participant, int node);
  void inspect(int participant, int node, const geometry::Box& box);
  void update(int participant, int node, const geometry::Box& box);

  void after_scatter();
  void after_forward();
  void after_backward();
  void after_share();
  void after_gather();

 private:
  template <typename Visit>
  void for_arrays(Visit visit) const;
  template <typename Visit>
  void each(int participant, int node, program::Slot slot, geometry::Range filters, Visit visit);
  bool is_complete(int node, program::Slot slot, geometry::Index filter, State state) const;
  std::size_t row(int node, program::Slot slot) const;

  const graph::Graph& graph_;
  const plan::Plan& plan_;
  const program::ProgramSet& set_;
  const bool train_;
  std::map<std::tuple<int, int, program::Slot>, std::vector<State>> arrays_;  // by participant, node
  std::map<std::tuple<int, int, program::Slot>, geometry::Range> read_;
  std::map<std::pair<int, program::Slot>, std::vector<bool>> collected_;
  std::vector<std::vector<bool>> sees_;      // [node][participant]: more than padding
  std::set<std::pair<int, int>> inspected_;  // participant, node
};

}  // namespace tessera::testing
