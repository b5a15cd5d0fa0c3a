#include "tests/support/program_check.hpp"

#include <fmt/format.h>

#include <bit>
#include <map>
#include <stdexcept>

#include "graph/footprint.hpp"
#include "program/work.hpp"
#include "tests/support/brute_force.hpp"
#include "tests/support/parameter_check.hpp"
#include "tests/support/structure_check.hpp"

namespace tessera::testing {

using geometry::Box;
using geometry::Index;
using geometry::Range;
using graph::Graph;
using graph::Layer;
using graph::LayerKind;
using plan::Plan;
using program::Buffer;
using program::Op;
using program::Phase;
using program::ProgramSet;
using program::Slot;
using program::Step;
using program::Storage;

namespace {

// Tensors are raw or final, deltas a set of bits. Statistics are zero, then final.
constexpr State kNothing = 0, kRaw = 1, kFinal = 2;
constexpr State kDefined = 1, kExternal = 2, kFirstUse = 4;  // uses[i] of graph::DeltaSources is kFirstUse << i
constexpr State kActivationUndone = State{1} << 30, kNormUndone = State{1} << 31;
// While partial deltas of a use are added up: whose, and of which use.
constexpr int kPartsShift = 32, kPartialUseShift = 58;
constexpr State kLow = (State{1} << kPartsShift) - 1;

struct Cell {
  Index n, c, y, x;
};

struct Array {
  Slot slot;
  Box box;
  std::vector<State> cells;
};

struct Message {
  Phase phase;
  int node;
  std::uint64_t bytes;
  bool half;
  std::vector<Array> arrays;
};

struct Participant {
  std::vector<std::vector<State>> cells;        // by buffer
  std::size_t next = 0;                         // step of the current phase
  std::map<std::pair<int, Op>, bool> finished;  // statistics, by node
};

std::size_t at(Index i) { return static_cast<std::size_t>(i); }
Box by_filter(Range filters) { return {filters, {0, 1}, {0, 1}, {0, 1}}; }
bool is_part(Slot slot) { return slot == Slot::kMoments || slot == Slot::kSums; }
bool is_gradient(Slot slot) { return slot == Slot::kGradient || slot == Slot::kBiasGradient; }

// What a part of the delta of a tensor can depend on, axis by axis.
struct Touched {
  std::vector<bool> c, y, x;
  bool cell(const Cell& cell) const { return c[at(cell.c)] && y[at(cell.y)] && x[at(cell.x)]; }
};

class Checker {
 public:
  Checker(const Graph& graph, const Plan& plan, const ProgramSet& set)
      : graph_(graph), plan_(plan), set_(set), train_(set.mode == program::Mode::kTrain), parameters_(graph, plan, set) {
    const auto uses = graph::uses(graph);
    for (int node = 0; node < graph.size(); ++node) {
      sources_.push_back(graph::delta_sources(graph, uses[at(node)], node));
      touched_.emplace_back();
      for (const auto& use : sources_.back().uses) touched_.back().push_back(touched_by(node, use));
      read_boxes_.emplace_back(at(plan.participants));
      for (int p = 0; p < plan.participants && by_channels(node); ++p)
        if (!plan.box(node, p).empty()) read_boxes_.back()[at(p)] = graph::input_box(graph, node, 0, plan.box(node, p));
    }
  }

  ProgramCheck run() {
    try {
      start();
      run(Phase::kScatter), run(Phase::kScatterMomentum), between("scatter", &ParameterCheck::after_scatter);
      run(Phase::kLoad), run(Phase::kForward), check_delivered(), between("forward", &ParameterCheck::after_forward);
      run(Phase::kBackward), check_deltas(), between("backward", &ParameterCheck::after_backward);
      run(Phase::kUpdate), run(Phase::kShare), between("share", &ParameterCheck::after_share);
      run(Phase::kGather), between("gather", &ParameterCheck::after_gather);
      where_.clear();
      for (int p = 0; p < plan_.participants; ++p) check_memory(set_.programs[at(p)], p);
    } catch (const std::runtime_error& failure) {
      result_.failure = where_ + failure.what();
    }
    return result_;
  }

 private:
  template <typename... Args>
  void require(bool condition, fmt::format_string<Args...> format, Args&&... args) const {
    if (!condition) throw std::runtime_error(fmt::format(format, std::forward<Args>(args)...));
  }

  Touched touched_by(int node, const graph::Use& use) const {
    const auto& shape = graph_[node].out;
    const Box whole = Box::whole(1, shape);
    Touched t{std::vector<bool>(at(shape.c), true), std::vector<bool>(at(shape.y), true), std::vector<bool>(at(shape.x), true)};
    if (graph_[use.layer].kind == LayerKind::kReorg) return t;
    const auto scan = [&](std::vector<bool>& axis, Range Box::*range) {
      for (std::size_t i = 0; i < axis.size(); ++i) {
        Box slice = whole;
        slice.*range = {static_cast<Index>(i), static_cast<Index>(i) + 1};
        axis[i] = !brute_output_box(graph_, use.layer, use.input, slice).empty();
      }
    };
    scan(t.c, &Box::c), scan(t.y, &Box::y), scan(t.x, &Box::x);
    return t;
  }

  // --- running ---------------------------------------------------------------------------------------------------

  void start() {
    require(static_cast<int>(set_.programs.size()) == plan_.participants, "{} programs", set_.programs.size());
    participants_.resize(set_.programs.size());
    for (int p = 0; p < plan_.participants; ++p) {
      where_ = fmt::format("participant {}: ", p);
      check_structure(graph_, plan_, set_.programs[at(p)], p);
      for (const Buffer& b : set_.programs[at(p)].buffers) {
        State initial = kNothing;
        if (b.storage == Storage::kCaller && b.slot == Slot::kStored) initial = kFinal;
        if (b.slot == Slot::kExternalDelta || b.slot == Slot::kInputDelta) initial = kDefined | kExternal;
        if (b.storage == Storage::kKept) initial = kDefined;
        participants_[at(p)].cells.emplace_back(b.storage == Storage::kParameters ? 0 : at(b.box.elements()), initial);
      }
    }
  }

  void run(Phase phase) {
    phase_ = phase;
    for (auto& participant : participants_) participant.next = 0;
    for (bool moved = true; moved;) {
      moved = false;
      for (int p = 0; p < plan_.participants; ++p) {
        const auto& steps = set_.programs[at(p)].steps(phase);
        while (participants_[at(p)].next < steps.size() && step(p, steps[participants_[at(p)].next])) {
          ++participants_[at(p)].next;
          ++result_.steps;
          moved = true;
        }
      }
    }
    for (int p = 0; p < plan_.participants; ++p) {
      where_ = fmt::format("participant {}, {}: ", p, to_string(phase));
      const std::size_t next = participants_[at(p)].next, all = set_.programs[at(p)].steps(phase).size();
      require(next == all, "waits for ever at step {} of {}", next, all);
    }
    require(messages_.empty(), "{} messages nobody takes", messages_.size());
  }

  void between(const char* phase, void (ParameterCheck::*check)()) {
    where_ = fmt::format("after {}: ", phase);
    (parameters_.*check)();
  }

  // False: it must wait.
  bool step(int p, const Step& s) {
    where_ = fmt::format("participant {}, {} step {} ({} of node {}, box {}): ", p, to_string(s.phase), participants_[at(p)].next,
                         to_string(s.op), s.node, to_string(s.box));
    switch (s.op) {
      case Op::kSend:
        send(p, s);
        break;
      case Op::kReceive:
        return receive(p, s);
      case Op::kCopy:
        copy(p, s);
        break;
      case Op::kFill:
        fill(p, s);
        break;
      case Op::kMergeMoments:
      case Op::kMergeSums:
        merge(p, s);
        break;
      case Op::kFinishMoments:
      case Op::kFinishSums:
        finish(p, s);
        break;
      case Op::kInspect:
        require(buffer(p, s.a).slot == Slot::kMomentum, "looks at {}", to_string(buffer(p, s.a).slot));
        parameters_.inspect(p, s.node, s.box);
        break;
      case Op::kUpdate:
        parameters_.update(p, s.node, s.box);
        break;
      default:
        phase_ == Phase::kBackward ? backward_step(p, s) : forward_step(p, s);
    }
    return true;
  }

  // --- cells -----------------------------------------------------------------------------------------------------

  Box whole(int node) const { return Box::whole(plan_.batch, graph_[node].out); }
  bool is_input(int node) const { return graph_[node].kind == LayerKind::kInput; }
  bool by_channels(int node) const { return plan::cut_along_channels(plan_, graph_, node); }
  const Buffer& buffer(int p, int number) const {
    require(number >= 0 && number < static_cast<int>(set_.programs[at(p)].buffers.size()), "no buffer {}", number);
    return set_.programs[at(p)].buffers[at(number)];
  }

  // Calls visit(state, cell) for every cell of the box, which must lie in the buffer.
  template <typename Visit>
  void cells(int p, int number, int node, std::initializer_list<Slot> slots, const Box& box, Visit visit) {
    const Buffer& b = buffer(p, number);
    require(b.node == node && std::find(slots.begin(), slots.end(), b.slot) != slots.end(),
            "buffer {} holds {} of node {}, wanted is node {}", number, to_string(b.slot), b.node, node);
    require(b.box.contains(box), "{} is not in the buffer {}", to_string(box), to_string(b.box));
    State* data = b.storage == Storage::kParameters ? parameters_.cells(p, node, b.slot) : participants_[at(p)].cells[at(number)].data();
    for (Index n = box.n.begin; n < box.n.end; ++n)
      for (Index c = box.c.begin; c < box.c.end; ++c)
        for (Index y = box.y.begin; y < box.y.end; ++y) {
          State* row =
              data + (((n - b.box.n.begin) * b.box.c.size() + c - b.box.c.begin) * b.box.y.size() + y - b.box.y.begin) * b.box.x.size();
          for (Index x = box.x.begin; x < box.x.end; ++x) visit(row[x - b.box.x.begin], Cell{n, c, y, x});
        }
  }

  void expect(int p, int number, int node, std::initializer_list<Slot> slots, const Box& box, State wanted) {
    cells(p, number, node, slots, box, [&](State state, const Cell& cell) {
      require(state == wanted, "buffer {} cell ({}, {}, {}, {}) is in state {:#x}, not {:#x}", number, cell.n, cell.c, cell.y, cell.x,
              state, wanted);
    });
  }

  void change(int p, int number, int node, std::initializer_list<Slot> slots, const Box& box, State from, State to) {
    expect(p, number, node, slots, box, from);
    cells(p, number, node, slots, box, [&](State& state, const Cell&) { state = to; });
  }

  bool kept_raw(int node) const { return train_ && graph_[node].batch_normalize; }

  // The output of a layer, to be read over `box`.
  void read_output(int p, int number, int node, const Box& box) {
    if (box.empty()) return;
    expect(p, number, node, {kept_raw(node) ? Slot::kActive : Slot::kStored}, box, kFinal);
  }

  // What normalisation and activation of these channels read.
  void read_vectors(int p, int node, Range channels) {
    parameters_.read(p, node, Slot::kBiases, channels);
    if (!graph_[node].batch_normalize) return;
    parameters_.read(p, node, Slot::kScales, channels);
    if (!train_)
      return parameters_.read(p, node, Slot::kRollingMean, channels), parameters_.read(p, node, Slot::kRollingVariance, channels);
    require(participants_[at(p)].finished.contains({node, Op::kFinishMoments}), "before the statistics");
  }

  // All parts of the delta are there, and what the layer itself does to it is done.
  void require_delta(int p, int number, int node, const Box& box, State undone) {
    const auto& sources = sources_[at(node)];
    State all = kDefined | undone | (sources.external ? kExternal : 0);
    for (std::size_t i = 0; i < sources.uses.size(); ++i) all |= kFirstUse << i;
    cells(p, number, node, {Slot::kDelta}, box, [&](State state, const Cell& cell) {
      if (state == all) return;
      State wanted = all;
      for (std::size_t i = 0; i < sources.uses.size(); ++i)
        if (!(state & (kFirstUse << i)) && !touched_[at(node)][i].cell(cell)) wanted &= ~(kFirstUse << i);
      require(state == wanted, "buffer {} cell ({}, {}, {}, {}): the delta has {:#x}, not {:#x}", number, cell.n, cell.c, cell.y, cell.x,
              state, wanted);
    });
  }

  bool undoes_activation(int node) const {
    const Layer& l = graph_[node];
    return l.kind == LayerKind::kConvolutional || (l.kind == LayerKind::kShortcut && l.activation != "linear");
  }
  State fully_undone(int node) const {
    return (undoes_activation(node) ? kActivationUndone : 0) | (graph_[node].batch_normalize ? kNormUndone : 0);
  }

  // --- transfers -------------------------------------------------------------------------------------------------

  // What `p` gives of a buffer.
  Array give(int p, int number, int node, const Box& box) {
    const Slot slot = buffer(p, number).slot;
    Array given{slot, box, {}};
    cells(p, number, node, {slot}, box, [&](State& state, const Cell& cell) {
      if (program::is_parameter(slot)) {
        parameters_.require_given(p, phase_, node, slot, cell.n, state);
      } else if (is_gradient(slot)) {
        parameters_.give_part(p, node, state);
      } else {
        const bool statistics = slot >= Slot::kMoments && slot <= Slot::kMergedSums;
        require(state != kNothing && (!statistics || state == kFinal), "a cell of buffer {} is not there", number);
        require(slot != Slot::kStored || state == (kept_raw(node) ? kRaw : kFinal), "an unfinished cell");
      }
      given.cells.push_back(state);
    });
    return given;
  }

  // It comes into the buffer of `p`.
  void put(int p, int number, int node, int from, const Array& given, bool accumulate) {
    const Buffer& b = buffer(p, number);
    const auto goes = [&](Slot a, Slot to) { return given.slot == a && b.slot == to; };
    const bool partial = goes(Slot::kPartial, Slot::kDelta), gradient = is_gradient(given.slot),
               input_delta = goes(Slot::kDelta, Slot::kInputDelta);
    require(given.slot == b.slot || partial || input_delta || goes(Slot::kExternalDelta, Slot::kDelta) ||
                goes(Slot::kStored, Slot::kDelivered) || goes(Slot::kActive, Slot::kDelivered) || goes(Slot::kGradient, Slot::kMomentum) ||
                goes(Slot::kBiasGradient, Slot::kBiasMomentum),
            "{} into {}", to_string(given.slot), to_string(b.slot));
    require(partial || accumulate == (gradient || (input_delta && !sources_[at(node)].overwrites_external)), "accumulate is {}",
            accumulate);
    const bool collects = phase_ == Phase::kGather;
    std::size_t i = 0;
    cells(p, number, node, {b.slot}, given.box, [&](State& state, const Cell& cell) {
      const State source = given.cells[i];
      if (collects) {
        parameters_.collect(node, b.slot, at(given.box.n.begin) * (given.cells.size() / at(given.box.n.size())) + i);
      } else if (program::is_parameter(given.slot)) {
        parameters_.take(p, phase_, node, b.slot, cell.n, state);
      } else if (gradient) {
        parameters_.contribute(p, from, node, b.slot, cell.n, state);
      } else if (partial) {
        add_partial(state, cell, node, from, source, accumulate);
      } else if (input_delta) {
        require(state == (kDefined | kExternal), "an input delta gets a second part of one participant");
        state = accumulate ? state | source : source;
      } else {
        require(state == (is_part(b.slot) ? kDefined : kNothing), "a cell that is here already, or no zero");
        state = source;
      }
      ++i;
    });
  }

  // One participant's part of a use's delta joins those of others; with the last one the use is complete.
  void add_partial(State& state, const Cell& cell, int node, int from, State source, bool accumulate) {
    const auto use = at(std::countr_zero(source >> 2));
    const State bit = kFirstUse << use, part = State{1} << (kPartsShift + from);
    require(source == (kDefined | bit), "a partial delta in state {:#x}", source);
    require(accumulate == (state != kNothing) && !(state & (bit | part)), "accumulate is {}, the delta has {:#x}", accumulate, state);
    require(!(state >> kPartialUseShift) || (state >> kPartialUseShift) == use + 1, "parts of two layers are mixed");
    State parts = (state & ((State{1} << kPartialUseShift) - 1) & ~kLow) | part, wanted = 0;
    const auto& boxes = read_boxes_[at(sources_[at(node)].uses[use].layer)];
    const Box one{{cell.n, cell.n + 1}, {cell.c, cell.c + 1}, {cell.y, cell.y + 1}, {cell.x, cell.x + 1}};
    for (std::size_t p = 0; p < boxes.size(); ++p)
      if (boxes[p].contains(one)) wanted |= State{1} << (kPartsShift + static_cast<int>(p));
    require(!(parts & ~wanted), "participant {} has no part of it", from);
    state = (state & kLow) | kDefined | (parts == wanted ? bit : parts | (use + 1) << kPartialUseShift);
  }

  void copy(int p, const Step& s) {
    if (s.b < 0) {  // the host's own parameters
      require(p == plan_.host && phase_ == Phase::kGather, "into nothing");
      return put(p, s.a, s.node, p, give(p, s.a, s.node, s.box), false);
    }
    put(p, s.b, s.node, p, give(p, s.a, s.node, s.box), s.accumulate);
  }

  std::vector<std::pair<int, Box>> arrays(const Step& s) const {
    std::vector<std::pair<int, Box>> result;
    for (const int number : {s.a, s.b, s.c})
      if (number >= 0) result.push_back({number, result.empty() ? s.box : by_filter(s.box.n)});
    return result;
  }

  void send(int p, const Step& s) {
    ++result_.transfers;
    require(!s.box.empty() && s.peer >= 0 && s.peer < plan_.participants && s.peer != p, "impossible peer {} or box", s.peer);
    require(seen_transfers_.insert({{p, s.peer, s.transfer}, true}).second, "transfer {:#x} is used twice", s.transfer);
    const auto& program = set_.programs[at(p)];
    Message message{s.phase, s.node, program::message_bytes(program, s), program::is_half(program, s), {}};
    for (const auto& [number, box] : arrays(s)) message.arrays.push_back(give(p, number, s.node, box));
    messages_[{p, s.peer, s.transfer}] = std::move(message);
  }

  bool receive(int p, const Step& s) {
    const auto found = messages_.find({s.peer, p, s.transfer});
    if (found == messages_.end()) return false;
    const Message& m = found->second;
    const auto& program = set_.programs[at(p)];
    const auto targets = arrays(s);
    require(m.phase == s.phase && m.node == s.node && m.bytes == program::message_bytes(program, s) &&
                m.half == program::is_half(program, s) && m.arrays.size() == targets.size(),
            "another message under transfer {:#x}", s.transfer);
    for (std::size_t i = 0; i < targets.size(); ++i) {
      require(m.arrays[i].box == targets[i].second, "another box under transfer {:#x}", s.transfer);
      put(p, targets[i].first, s.node, s.peer, m.arrays[i], s.accumulate);
    }
    messages_.erase(found);
    return true;
  }

  // --- statistics ------------------------------------------------------------------------------------------------

  // This participant's row of a buffer of parts.
  static Box own_part(const Buffer& b, int p, Range channels) { return {{p, p + 1}, channels, b.box.y, b.box.x}; }

  void merge(int p, const Step& s) {
    const bool sums = s.op == Op::kMergeSums;
    const Buffer& b = buffer(p, s.a);
    for (int q = 0; q < plan_.participants; ++q)
      require(plan_.box(s.node, q).empty() || b.box.n.contains({q, q + 1}), "no place for the part of participant {}", q);
    cells(p, s.a, s.node, {sums ? Slot::kSums : Slot::kMoments}, b.box, [&](State state, const Cell& cell) {
      const Box& owned = plan_.box(s.node, static_cast<int>(cell.n));
      const bool has = !owned.empty() && owned.c.contains({cell.c, cell.c + 1});
      require(state == (has ? kFinal : kDefined), "channel {} of the part of participant {} is in state {}", cell.c, cell.n, state);
    });
    change(p, s.b, s.node, {sums ? Slot::kMergedSums : Slot::kMergedMoments}, buffer(p, s.b).box, kNothing, kFinal);
  }

  void finish(int p, const Step& s) {
    const bool sums = s.op == Op::kFinishSums;
    expect(p, s.a, s.node, {sums ? Slot::kMergedSums : Slot::kMergedMoments}, buffer(p, s.a).box, kFinal);
    require(participants_[at(p)].finished.insert({{s.node, s.op}, true}).second, "twice");
    if (!sums) return parameters_.finish_moments(p, s.node);
    require((s.b < 0) == plan_.filters(s.node, p).empty() && (s.b < 0) == (s.c < 0), "gradients into {} and {}", s.b, s.c);
    if (s.b < 0) return;
    require(buffer(p, s.b).slot == Slot::kBiasMomentum && buffer(p, s.c).slot == Slot::kScaleMomentum, "not momentum");
    parameters_.contribute_total(p, s.node, s.box.n);
  }

  // --- steps -----------------------------------------------------------------------------------------------------

  void fill(int p, const Step& s) {
    const Buffer& b = buffer(p, s.a);
    if (b.slot == Slot::kDelta) return change(p, s.a, s.node, {b.slot}, s.box, kNothing, kDefined);
    if (b.slot == Slot::kStored) {
      require(phase_ == Phase::kForward || plan_.recompute, "in the backward pass");
      require(graph_[s.node].kind == LayerKind::kConvolutional && brute_input_box(graph_, s.node, 0, s.box).empty(), "nothing to fill");
      return change(p, s.a, s.node, {b.slot}, s.box, kNothing, kRaw);
    }
    require((is_part(b.slot) || is_gradient(b.slot)) && s.box == b.box, "fills {}", to_string(b.slot));
    if (b.storage != Storage::kKept) return change(p, s.a, s.node, {b.slot}, s.box, kNothing, kDefined);
    cells(p, s.a, s.node, {b.slot}, s.box, [](State& state, const Cell&) { ParameterCheck::zero_part(state); });
  }

  void forward_step(int p, const Step& s) {
    const Layer& layer = graph_[s.node];
    const auto reads = [&](std::size_t input, int number) {
      read_output(p, number, layer.inputs[input], brute_input_box(graph_, s.node, static_cast<int>(input), s.box));
    };
    const auto writes = [&](State state) { change(p, s.b, s.node, {Slot::kStored}, s.box, kNothing, state); };
    const auto writes_winners = [&] {
      require(train_ && layer.backward ? s.c >= 0 : s.c < 0, "winners {}", s.c);
      if (s.c >= 0) change(p, s.c, s.node, {Slot::kWinners}, s.box, kNothing, kFinal);
    };
    switch (s.op) {
      case Op::kConvolution:
        parameters_.read(p, s.node, Slot::kWeights, s.box.c);
        reads(0, s.a), writes(kRaw);
        break;
      case Op::kBiasActivate:
        require(!layer.batch_normalize, "normalised");
        read_vectors(p, s.node, s.box.c);
        change(p, s.a, s.node, {Slot::kStored}, s.box, kRaw, kFinal);
        break;
      case Op::kMoments:
        require(train_ && s.box == plan_.box(s.node, p), "not the owned box");
        expect(p, s.a, s.node, {Slot::kStored}, s.box, kRaw);
        change(p, s.b, s.node, {Slot::kMoments}, own_part(buffer(p, s.b), p, s.box.c), kDefined, kFinal);
        break;
      case Op::kNormalize:
        normalize(p, s);
        break;
      case Op::kMaxpool:
        reads(0, s.a), writes(kFinal), writes_winners();
        break;
      case Op::kNormalizeMaxpool: {
        const int source = layer.inputs[0];
        require(layer.kind == LayerKind::kMaxpool && graph_[source].batch_normalize, "nothing to normalise");
        read_vectors(p, source, s.box.c);
        expect(p, s.a, source, {Slot::kStored}, brute_input_box(graph_, s.node, 0, s.box), kRaw);
        writes(kFinal), writes_winners();
        break;
      }
      case Op::kRoute: {
        const Box all = Box::whole(plan_.batch, graph_[layer.inputs[at(s.input)]].out);
        require(brute_output_box(graph_, s.node, s.input, all).contains(s.box), "channels of another input");
        reads(at(s.input), s.a), writes(kFinal);
        break;
      }
      case Op::kShortcut: {
        const State done = at(s.input) + 1 == layer.inputs.size() ? kFinal : kRaw;
        reads(at(s.input), s.c);
        if (s.input == 1)
          reads(0, s.a), writes(done);
        else
          require(s.a == s.b, "adds to {}", s.a), change(p, s.b, s.node, {Slot::kStored}, s.box, kRaw, done);
        break;
      }
      case Op::kUpsample:
      case Op::kReorg:
        reads(0, s.a), writes(kFinal);
        break;
      default:
        require(false, "not a forward step");
    }
  }

  void normalize(int p, const Step& s) {
    require(graph_[s.node].batch_normalize && (train_ ? s.a != s.b : s.a == s.b), "buffers {} and {}", s.a, s.b);
    read_vectors(p, s.node, s.box.c);
    expect(p, s.a, s.node, {Slot::kStored}, s.box, kRaw);
    if (train_)
      change(p, s.b, s.node, {Slot::kActive}, s.box, kNothing, kFinal);
    else
      change(p, s.a, s.node, {Slot::kStored}, s.box, kRaw, kFinal);
  }

  void backward_step(int p, const Step& s) {
    const Layer& layer = graph_[s.node];
    if (plan_.recompute && s.op < Op::kConvolutionData && s.op != Op::kMoments) return forward_step(p, s);
    require(layer.backward || s.op == Op::kNormalize, "below stopbackward");
    switch (s.op) {
      case Op::kNormalize:
        normalize(p, s);
        break;
      case Op::kActivationDelta:
      case Op::kNormSums:
        undo_activation(p, s);
        break;
      case Op::kNormDelta:
        require(participants_[at(p)].finished.contains({s.node, Op::kFinishSums}), "before the sums");
        read_vectors(p, s.node, s.box.c);
        expect(p, s.b, s.node, {Slot::kStored}, s.box, kRaw);
        require_delta(p, s.a, s.node, s.box, kActivationUndone);
        cells(p, s.a, s.node, {Slot::kDelta}, s.box, [](State& state, const Cell&) { state |= kNormUndone; });
        break;
      case Op::kConvolutionWeights: {
        require(s.box == plan_.box(s.node, p), "not the owned box");
        read_output(p, s.a, layer.inputs[0], brute_input_box(graph_, s.node, 0, s.box));
        require_delta(p, s.b, s.node, s.box, fully_undone(s.node));
        const Index kernel = layer.kernel;
        add_gradient(p, s.c, s.node, {s.box.c, {0, graph_.input_channels(s.node)}, {0, kernel}, {0, kernel}}, Slot::kGradient,
                     Slot::kMomentum);
        break;
      }
      case Op::kConvolutionData:
      case Op::kMaxpoolBackward:
      case Op::kRouteBackward:
      case Op::kShortcutBackward:
      case Op::kUpsampleBackward:
      case Op::kReorgBackward:
        add_part(p, s);
        break;
      default:
        require(false, "not a backward step");
    }
  }

  // Straight into the momentum, or where the participant keeps its part.
  void add_gradient(int p, int number, int node, const Box& box, Slot own, Slot momentum) {
    const bool home = buffer(p, number).slot == momentum;
    cells(p, number, node, {own, momentum}, box, [&](State& state, const Cell& cell) {
      home ? parameters_.contribute(p, p, node, momentum, cell.n, state) : ParameterCheck::compute_part(state);
    });
  }

  void undo_activation(int p, const Step& s) {
    const Layer& layer = graph_[s.node];
    require(undoes_activation(s.node) && layer.batch_normalize == (s.op == Op::kNormSums), "wrong step");
    require(s.owned == plan_.box(s.node, p) && s.box.contains(s.owned), "sums over {}", to_string(s.owned));
    require((s.c >= 0) == (layer.trainable() && !s.owned.empty()), "sums into {}", s.c);
    if (layer.batch_normalize) {
      read_vectors(p, s.node, s.box.c);
      expect(p, s.b, s.node, {Slot::kStored}, s.box, kRaw);
      if (s.c >= 0) change(p, s.c, s.node, {Slot::kSums}, own_part(buffer(p, s.c), p, s.owned.c), kDefined, kFinal);
    } else {
      if (layer.activation != "linear") expect(p, s.b, s.node, {Slot::kStored}, s.box, kFinal);
      if (s.c >= 0) add_gradient(p, s.c, s.node, by_filter(s.owned.c), Slot::kBiasGradient, Slot::kBiasMomentum);
    }
    require_delta(p, s.a, s.node, s.box, 0);
    cells(p, s.a, s.node, {Slot::kDelta}, s.box, [](State& state, const Cell&) { state |= kActivationUndone; });
  }

  void add_part(int p, const Step& s) {
    const Layer& layer = graph_[s.node];
    const int source = layer.inputs[at(s.input)];
    const auto& uses = sources_[at(source)].uses;
    std::size_t use = 0;
    while (use < uses.size() && !(uses[use].layer == s.node && uses[use].input == s.input)) ++use;
    require(use < uses.size() && graph_[source].backward, "this part does not count");
    const bool partial = by_channels(s.node);
    Box seen = brute_output_box(graph_, s.node, s.input, s.box);
    if (partial) {
      require(s.box == read_boxes_[at(s.node)][at(p)], "not all that its filters touch");
      seen = geometry::intersect(seen, plan_.box(s.node, p));
    }
    if (s.op == Op::kConvolutionData) {  // it takes the filters of all the delta that is there
      const Range filters = buffer(p, s.a).box.c;
      require(partial ? filters == plan_.box(s.node, p).c : filters.contains(seen.c), "of other filters");
      parameters_.read(p, s.node, Slot::kWeights, buffer(p, s.a).box.c);
    }
    require_delta(p, s.a, s.node, seen, fully_undone(s.node));
    if (layer.kind == LayerKind::kMaxpool) expect(p, s.c, s.node, {Slot::kWinners}, seen, kFinal);
    if (layer.kind == LayerKind::kReorg) require(!s.accumulate, "reorg cannot add");
    cells(p, s.b, source, {partial ? Slot::kPartial : Slot::kDelta}, s.box, [&](State& state, const Cell&) {
      require(s.accumulate == (state != kNothing) && !(state & (kFirstUse << use)) && !(state >> kPartsShift),
              "accumulate is {}, the delta has {:#x}", s.accumulate, state);
      state |= kDefined | (kFirstUse << use);
    });
  }

  // --- at the end ------------------------------------------------------------------------------------------------

  void check_delivered() {
    for (int node = graph_.first_layer(); node < graph_.size(); ++node)
      if (graph_[node].delivered) {
        where_ = fmt::format("node {}: ", node);
        const int number = hosts(node, Slot::kDelivered);
        require(number >= 0, "not delivered");
        expect(plan_.host, number, node, {Slot::kDelivered}, whole(node), kFinal);
      }
  }

  // The host's buffer, -1 if it has none.
  int hosts(int node, Slot slot) const {
    const auto& buffers = set_.programs[at(plan_.host)].buffers;
    for (std::size_t i = 0; i < buffers.size(); ++i)
      if (buffers[i].node == node && buffers[i].slot == slot) return static_cast<int>(i);
    return -1;
  }

  void check_deltas() {
    for (int node = 0; node < graph_.first_layer() && train_; ++node)
      if (graph_[node].backward) check_input_delta(node);
    for (int p = 0; p < plan_.participants; ++p)
      for (std::size_t i = 0; i < participants_[at(p)].cells.size(); ++i) {
        const Buffer& b = set_.programs[at(p)].buffers[i];
        where_ = fmt::format("participant {}, {} of node {}: ", p, to_string(b.slot), b.node);
        for (const State state : participants_[at(p)].cells[i])
          require(b.storage != Storage::kKept || ParameterCheck::is_zero(state), "is not zero for the next batch");
      }
  }

  void check_input_delta(int node) {
    where_ = fmt::format("node {}: ", node);
    const auto& sources = sources_[at(node)];
    const int number = hosts(node, Slot::kInputDelta);
    require(number >= 0, "no input delta");
    cells(plan_.host, number, node, {Slot::kInputDelta}, whole(node), [&](State state, const Cell& cell) {
      require(((state & kExternal) != 0) == !sources.overwrites_external && !(state >> kPartsShift), "the delta is in state {:#x}", state);
      for (std::size_t i = 0; i < sources.uses.size(); ++i)
        require((state & (kFirstUse << i)) || !touched_[at(node)][i].cell(cell), "use {} is missing at ({}, {}, {}, {})", i, cell.n, cell.c,
                cell.y, cell.x);
    });
  }

  const Graph& graph_;
  const Plan& plan_;
  const ProgramSet& set_;
  const bool train_;
  ParameterCheck parameters_;
  std::vector<graph::DeltaSources> sources_;
  std::vector<std::vector<Touched>> touched_;  // [node][use]
  std::vector<std::vector<Box>> read_boxes_;   // [node][participant]: of layers cut along channels, what each reads
  std::vector<Participant> participants_;
  std::map<std::tuple<int, int, std::uint32_t>, Message> messages_;  // by sender, receiver, transfer
  std::map<std::tuple<int, int, std::uint32_t>, bool> seen_transfers_;
  Phase phase_ = Phase::kLoad;
  std::string where_;
  ProgramCheck result_;
};

}  // namespace

ProgramCheck check_programs(const Graph& graph, const Plan& plan, const ProgramSet& set) { return Checker(graph, plan, set).run(); }

}  // namespace tessera::testing
