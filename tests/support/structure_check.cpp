#include "tests/support/structure_check.hpp"

#include <fmt/format.h>

#include <stdexcept>

#include "program/work.hpp"

namespace tessera::testing {

using geometry::Box;
using geometry::Range;
using program::Buffer;
using program::Op;
using program::Phase;
using program::Slot;
using program::Step;
using program::Storage;

namespace {

std::size_t at(int i) { return static_cast<std::size_t>(i); }

template <typename... Args>
void require(bool condition, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) throw std::runtime_error(fmt::format(format, std::forward<Args>(args)...));
}

bool is_rows(Slot slot) { return slot == Slot::kGradient || slot == Slot::kWeights || slot == Slot::kMomentum; }
bool is_gradient(Slot slot) { return slot == Slot::kGradient || slot == Slot::kBiasGradient; }

// All cells that a slot of a node may have.
Box widest(const graph::Graph& graph, const plan::Plan& plan, int node, Slot slot) {
  const auto& layer = graph[node];
  if (slot < Slot::kMoments) return Box::whole(plan.batch, layer.out);
  const geometry::Index kernel = layer.kernel, fields = slot <= Slot::kMergedMoments ? 3 : 2;
  if (slot == Slot::kMoments || slot == Slot::kSums) return {{0, plan.participants}, {0, layer.out.c}, {0, 1}, {0, fields}};
  if (slot == Slot::kMergedMoments || slot == Slot::kMergedSums) return {{0, 1}, {0, layer.out.c}, {0, 1}, {0, fields}};
  if (!layer.trainable()) return {};
  if (is_rows(slot)) return {{0, layer.out.c}, {0, graph.input_channels(node)}, {0, kernel}, {0, kernel}};
  return {{0, layer.out.c}, {0, 1}, {0, 1}, {0, 1}};
}

void check_buffer(const graph::Graph& graph, const plan::Plan& plan, const Buffer& b, int self) {
  const Box all = widest(graph, plan, b.node, b.slot);
  require(!b.box.empty() && all.contains(b.box), "{} of node {}: impossible box {}", to_string(b.slot), b.node, to_string(b.box));
  const bool made = b.slot == Slot::kStored && graph[b.node].kind == graph::LayerKind::kInput && !plan.source(b.node, self).empty();
  const bool outside = b.slot == Slot::kDelivered || b.slot == Slot::kExternalDelta || b.slot == Slot::kInputDelta;
  require(!outside || self == plan.host, "{} of node {} is not on the host", to_string(b.slot), b.node);
  const Storage storage = made || outside                            ? Storage::kCaller
                          : program::is_parameter(b.slot)            ? Storage::kParameters
                          : is_gradient(b.slot) && !plan.single_pass ? Storage::kKept
                                                                     : Storage::kArena;
  require(b.storage == storage, "{} of node {} is kept in another place", to_string(b.slot), b.node);
  require(!made || b.box == plan.source(b.node, self), "input {} is not what is made here", b.node);
  require(!(outside || program::is_parameter(b.slot)) || b.box == all, "{} of node {} is in part", to_string(b.slot), b.node);
  if (b.slot >= Slot::kMoments && b.slot <= Slot::kMergedSums)
    require(b.box.c == all.c && b.box.x == all.x, "{} lacks channels", to_string(b.slot));
}

bool moves(const Step& s) { return program::is_send(s) || program::is_receive(s); }

bool belongs(const graph::Graph& graph, const program::Program& program, Phase list, const Step& s) {
  const bool reduces = s.phase == Phase::kReduce;
  if (s.phase != list && !(reduces && list == Phase::kBackward)) return false;
  if (list == Phase::kUpdate || s.op == Op::kUpdate) return list == Phase::kUpdate && s.op == Op::kUpdate;
  if (s.a < 0 || s.a >= static_cast<int>(program.buffers.size())) return false;
  const Buffer& a = program.buffer(s.a);
  const bool input = a.slot == Slot::kStored && graph[a.node].kind == graph::LayerKind::kInput;
  switch (list) {
    case Phase::kLoad:
      return moves(s) && input;
    case Phase::kForward:
      return a.slot < Slot::kGradient && !(moves(s) && input);
    case Phase::kBackward: {
      const bool sums = a.slot >= Slot::kGradient && (moves(s) || s.op == Op::kCopy || s.op == Op::kInspect);
      return reduces == (sums || (s.op == Op::kFill && a.storage == Storage::kKept)) && !(moves(s) && input);
    }
    case Phase::kGather:
      return program::is_parameter(a.slot) && (moves(s) || (s.op == Op::kCopy && s.b < 0));
    default:
      return program::is_parameter(a.slot) && moves(s);
  }
}

}  // namespace

void check_structure(const graph::Graph& graph, const plan::Plan& plan, const program::Program& program, int self) {
  require(program.self == self && program.participants == plan.participants && program.wire == plan.wire, "another's program");
  for (const Buffer& b : program.buffers) check_buffer(graph, plan, b, self);
  for (int phase = 0; phase < program::kPhases; ++phase)
    for (std::size_t i = 0; i < program.phases[at(phase)].size(); ++i)
      require(belongs(graph, program, static_cast<Phase>(phase), program.phases[at(phase)][i]), "step {} ({} of node {}) in {}", i,
              to_string(program.phases[at(phase)][i].op), program.phases[at(phase)][i].node, to_string(static_cast<Phase>(phase)));
}

void check_memory(const program::Program& program, int self) {
  std::vector<std::pair<int, int>> lives(program.buffers.size(), {-1, -1});
  int index = 0;
  for (const Phase phase : {Phase::kLoad, Phase::kForward, Phase::kBackward})
    for (const Step& s : program.steps(phase)) {
      for (const int number : {s.a, s.b, s.c})
        if (number >= 0) {
          auto& [first, last] = lives[at(number)];
          if (first < 0) first = index;
          last = index;
        }
      ++index;
    }
  const auto in_arena = [](const Buffer& b) { return b.storage == Storage::kArena || b.storage == Storage::kKept; };
  for (std::size_t i = 0; i < lives.size(); ++i) {
    const Buffer& a = program.buffers[i];
    const auto name = fmt::format("participant {}, buffer {} ({} of node {}): ", self, i, to_string(a.slot), a.node);
    require(a.bytes == static_cast<std::size_t>(a.box.elements()) * program::element_bytes(a.slot), "{}{} bytes for {}", name, a.bytes,
            to_string(a.box));
    if (!in_arena(a)) continue;
    require(lives[i].first >= 0, "{}never used", name);
    if (a.storage == Storage::kKept) lives[i] = {0, index};
    require(a.offset % program::kBufferAlignment == 0 && a.offset + a.bytes <= program.arena_bytes, "{}offset {} in an arena of {}", name,
            a.offset, program.arena_bytes);
    for (std::size_t j = 0; j < i; ++j) {
      const Buffer& b = program.buffers[j];
      if (!in_arena(b) || lives[i].first > lives[j].second || lives[j].first > lives[i].second) continue;
      require(a.offset + a.bytes <= b.offset || b.offset + b.bytes <= a.offset, "{}overlaps buffer {} ({} of node {})", name, j,
              to_string(b.slot), b.node);
    }
  }
}

}  // namespace tessera::testing
