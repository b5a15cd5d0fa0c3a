#include "tests/support/program_check.hpp"

#include <fmt/format.h>

#include <map>
#include <stdexcept>

#include "tests/support/brute_force.hpp"
#include "tests/support/gradient_sum_check.hpp"

namespace tessera::testing {

using geometry::Box;
using geometry::Index;
using graph::Graph;
using graph::Layer;
using graph::LayerKind;
using plan::Plan;
using program::Buffer;
using program::Op;
using program::ProgramSet;
using program::Slot;
using program::Step;

namespace {

// State of a cell; 0 means that nothing has been written. Tensors are raw or final, deltas a set of bits.
using State = std::uint32_t;
constexpr State kNothing = 0, kRaw = 1, kFinal = 2;
constexpr State kDefined = 1, kExternal = 2, kFirstUse = 4;  // uses[i] of graph::DeltaSources is kFirstUse << i
constexpr State kActivationUndone = State{1} << 30, kNormUndone = State{1} << 31;

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Message {
  int from, to;
  Op op;
  int node;
  Slot slot = Slot::kStored;
  Box box;
  std::vector<State> cells;
};

struct Participant {
  std::vector<std::vector<State>> cells;           // by buffer
  std::size_t next = 0;                            // step of the current pass
  std::map<int, std::vector<bool>> moments, sums;  // by node: whose parts are here
  std::map<int, bool> moments_merged, sums_merged;
};

std::size_t at(int i) { return static_cast<std::size_t>(i); }

// What a part of the delta of a tensor can depend on, axis by axis.
struct Touched {
  std::vector<bool> c, y, x;
  bool cell(Index channel, Index row, Index column) const {
    return c[static_cast<std::size_t>(channel)] && y[static_cast<std::size_t>(row)] && x[static_cast<std::size_t>(column)];
  }
};

class Checker {
 public:
  Checker(const Graph& graph, const Plan& plan, const ProgramSet& set)
      : graph_(graph), plan_(plan), set_(set), train_(set.mode == program::Mode::kTrain), gradient_sums_(graph, plan, *set.sharding) {
    const auto uses = graph::uses(graph);
    for (int node = 0; node < graph.size(); ++node) {
      sources_.push_back(graph::delta_sources(graph, uses[at(node)], node));
      touched_.emplace_back();
      for (const auto& use : sources_.back().uses) touched_.back().push_back(touched_by(node, use));
    }
  }

  ProgramCheck run() {
    try {
      start();
      pass(false);
      check_delivered();
      pass(true);
      check_gradients();
      for (int p = 0; p < plan_.participants; ++p) check_memory(p);
    } catch (const Failure& failure) {
      result_.failure = failure.what();
    } catch (const std::runtime_error& failure) {  // of the gradients' sums
      result_.failure = where_ + failure.what();
    }
    return result_;
  }

 private:
  template <typename... Args>
  void require(bool condition, fmt::format_string<Args...> format, Args&&... args) const {
    if (!condition) throw Failure(where_ + fmt::format(format, std::forward<Args>(args)...));
  }

  Touched touched_by(int node, const graph::Use& use) const {
    const auto& shape = graph_[node].out;
    const Box whole = Box::whole(1, shape);
    Touched t{std::vector<bool>(at(static_cast<int>(shape.c)), true), std::vector<bool>(at(static_cast<int>(shape.y)), true),
              std::vector<bool>(at(static_cast<int>(shape.x)), true)};
    if (graph_[use.layer].kind == LayerKind::kReorg) return t;
    const auto scan = [&](std::vector<bool>& axis, geometry::Range Box::*range) {
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
    for (int p = 0; p < plan_.participants; ++p)
      for (const Buffer& b : set_.programs[at(p)].buffers) {
        const bool outside = b.slot == Slot::kDelivered || b.slot == Slot::kExternalDelta || b.slot == Slot::kInputDelta ||
                             (p == 0 && b.slot == Slot::kStored && is_input(b.node));
        where_ = fmt::format("participant {}, {} of node {}: ", p, to_string(b.slot), b.node);
        require(b.external == outside && (p == 0 || !outside), "external is {}", b.external);
        require(!outside || b.box == Box::whole(plan_.batch, graph_[b.node].out), "{} is not the whole tensor", to_string(b.box));
        const bool gradient = b.slot == Slot::kGradient &&
                              b.box == Box{{0, 1}, {0, 1}, {0, 1}, set_.programs[at(p)].gradient_windows[at(b.node)]} &&
                              geometry::Range{0, program::summed_elements(graph_, b.node)}.contains(b.box.x);
        require(gradient || (b.slot != Slot::kGradient && !b.box.empty() && Box::whole(plan_.batch, graph_[b.node].out).contains(b.box)),
                "impossible box {}", to_string(b.box));
        State initial = kNothing;
        if (outside && b.slot == Slot::kStored) initial = kFinal;
        if (b.slot == Slot::kExternalDelta || b.slot == Slot::kInputDelta) initial = kDefined | kExternal;
        participants_[at(p)].cells.emplace_back(static_cast<std::size_t>(b.box.elements()), initial);
      }
  }

  const std::vector<Step>& steps(int p) const { return in_backward_ ? set_.programs[at(p)].backward : set_.programs[at(p)].forward; }

  void pass(bool backward) {
    in_backward_ = backward;
    for (auto& participant : participants_) participant.next = 0;
    for (bool moved = true; moved;) {
      moved = false;
      for (int p = 0; p < plan_.participants; ++p)
        while (participants_[at(p)].next < steps(p).size() && step(p, steps(p)[participants_[at(p)].next])) {
          ++participants_[at(p)].next;
          ++result_.steps;
          moved = true;
        }
    }
    for (int p = 0; p < plan_.participants; ++p) {
      where_ = fmt::format("participant {}: ", p);
      require(participants_[at(p)].next == steps(p).size(), "waits for ever at step {} of {}", participants_[at(p)].next, steps(p).size());
    }
    require(messages_.empty(), "{} messages nobody takes", messages_.size());
  }

  // False: it must wait.
  bool step(int p, const Step& s) {
    where_ = fmt::format("participant {}, {} step {} ({} of node {}, box {}): ", p, in_backward_ ? "backward" : "forward",
                         participants_[at(p)].next, to_string(s.op), s.node, to_string(s.box));
    if (program::sums_gradients(s.op)) {
      require(in_backward_, "in the forward pass");
      return gradient_sums_.step(p, s);
    }
    switch (s.op) {
      case Op::kSend:
        send(p, s);
        break;
      case Op::kReceive:
        return receive(p, s);
      case Op::kSendMoments:
      case Op::kSendSums:
        send_part(p, s);
        break;
      case Op::kReceiveMoments:
      case Op::kReceiveSums:
        return receive_part(p, s);
      case Op::kMergeMoments:
        merge(participants_[at(p)].moments[s.node], participants_[at(p)].moments_merged[s.node], s.node);
        break;
      case Op::kMergeSums:
        merge(participants_[at(p)].sums[s.node], participants_[at(p)].sums_merged[s.node], s.node);
        break;
      case Op::kCopy:
        put(p, s.b, s.box, take(p, s.a, s.node, s.box), buffer(p, s.a).slot, s.accumulate);
        break;
      case Op::kFill:
        fill(p, s);
        break;
      default:
        in_backward_ ? backward_step(p, s) : forward_step(p, s);
    }
    return true;
  }

  // --- cells -----------------------------------------------------------------------------------------------------

  Box whole(int node) const { return Box::whole(plan_.batch, graph_[node].out); }
  bool is_input(int node) const { return graph_[node].kind == LayerKind::kInput; }
  const Buffer& buffer(int p, int number) const {
    require(number >= 0 && number < static_cast<int>(set_.programs[at(p)].buffers.size()), "no buffer {}", number);
    return set_.programs[at(p)].buffers[at(number)];
  }

  // Calls visit(state, c, y, x) for every cell of the box, which must lie in the buffer.
  template <typename Visit>
  void cells(int p, int number, int node, std::initializer_list<Slot> slots, const Box& box, Visit visit) {
    const Buffer& b = buffer(p, number);
    require(b.node == node && std::find(slots.begin(), slots.end(), b.slot) != slots.end(),
            "buffer {} holds {} of node {}, wanted is node {}", number, to_string(b.slot), b.node, node);
    require(b.box.contains(box), "{} is not in the buffer {}", to_string(box), to_string(b.box));
    State* data = participants_[at(p)].cells[at(number)].data();
    for (Index n = box.n.begin; n < box.n.end; ++n)
      for (Index c = box.c.begin; c < box.c.end; ++c)
        for (Index y = box.y.begin; y < box.y.end; ++y) {
          State* row =
              data + (((n - b.box.n.begin) * b.box.c.size() + c - b.box.c.begin) * b.box.y.size() + y - b.box.y.begin) * b.box.x.size();
          for (Index x = box.x.begin; x < box.x.end; ++x) visit(row[x - b.box.x.begin], c, y, x);
        }
  }

  void expect(int p, int number, int node, std::initializer_list<Slot> slots, const Box& box, State wanted) {
    cells(p, number, node, slots, box, [&](State& state, Index c, Index y, Index x) {
      require(state == wanted, "buffer {} cell ({}, {}, {}) is in state {}, not {}", number, c, y, x, state, wanted);
    });
  }

  void change(int p, int number, int node, std::initializer_list<Slot> slots, const Box& box, State from, State to) {
    expect(p, number, node, slots, box, from);
    cells(p, number, node, slots, box, [&](State& state, Index, Index, Index) { state = to; });
  }

  bool kept_raw(int node) const { return train_ && graph_[node].batch_normalize; }

  // The output of a layer, to be read over `box`.
  void read_output(int p, int number, int node, const Box& box) {
    if (box.empty()) return;
    expect(p, number, node, {kept_raw(node) ? Slot::kActive : Slot::kStored}, box, kFinal);
  }

  // All parts of the delta are there, and what the layer itself does to it is done.
  void require_delta(int p, int number, int node, const Box& box, State undone) {
    const auto& sources = sources_[at(node)];
    State all = kDefined | undone | (sources.external ? kExternal : 0);
    for (std::size_t i = 0; i < sources.uses.size(); ++i) all |= kFirstUse << i;
    cells(p, number, node, {Slot::kDelta}, box, [&](State& state, Index c, Index y, Index x) {
      if (state == all) return;
      State wanted = all;
      for (std::size_t i = 0; i < sources.uses.size(); ++i)
        if (!(state & (kFirstUse << i)) && !touched_[at(node)][i].cell(c, y, x)) wanted &= ~(kFirstUse << i);
      require(state == wanted, "buffer {} cell ({}, {}, {}): the delta has {:#x}, not {:#x}", number, c, y, x, state, wanted);
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

  std::vector<State> take(int p, int number, int node, const Box& box) {
    std::vector<State> taken;
    cells(p, number, node, {Slot::kStored, Slot::kActive, Slot::kWinners, Slot::kDelta, Slot::kExternalDelta}, box,
          [&](State& state, Index, Index, Index) {
            require(state != kNothing, "a cell of buffer {} is not there", number);
            taken.push_back(state);
          });
    const Slot slot = buffer(p, number).slot;
    if (slot == Slot::kStored)
      for (State state : taken) require(state == (kept_raw(node) ? kRaw : kFinal), "an unfinished cell");
    return taken;
  }

  void put(int p, int number, const Box& box, const std::vector<State>& taken, Slot source, bool accumulate) {
    const Buffer& b = buffer(p, number);
    const bool to_input_delta = source == Slot::kDelta && b.slot == Slot::kInputDelta;
    const bool delivery = (source == Slot::kStored || source == Slot::kActive) && b.slot == Slot::kDelivered;
    require(b.slot == source || to_input_delta || delivery || (source == Slot::kExternalDelta && b.slot == Slot::kDelta), "{} into {}",
            to_string(source), to_string(b.slot));
    require(accumulate == (to_input_delta && !sources_[at(b.node)].overwrites_external), "accumulate is {}", accumulate);
    std::size_t i = 0;
    cells(p, number, b.node, {b.slot}, box, [&](State& state, Index, Index, Index) {
      if (to_input_delta) {
        require(state == (kDefined | kExternal), "an input delta gets a second part of one participant");
        state = accumulate ? state | taken[i] : taken[i];
      } else {
        require(state == kNothing, "a cell that is here already");
        state = taken[i];
      }
      ++i;
    });
  }

  Message& post(int p, const Step& s) {
    ++result_.transfers;
    require(s.peer >= 0 && s.peer < plan_.participants && s.peer != p, "impossible peer {}", s.peer);
    require(seen_transfers_.insert({s.transfer, true}).second, "transfer {} is used twice", s.transfer);
    return messages_[s.transfer] = {p, s.peer, s.op, s.node, Slot::kStored, s.box, {}};
  }

  void send(int p, const Step& s) {
    require(!s.box.empty(), "empty");
    Message& message = post(p, s);
    message.slot = buffer(p, s.a).slot;
    message.cells = take(p, s.a, s.node, s.box);
  }

  Message* arrived(int p, const Step& s) {
    const auto found = messages_.find(s.transfer);
    if (found == messages_.end()) return nullptr;
    const Message& m = found->second;
    require(m.to == p && m.from == s.peer && m.node == s.node && m.box == s.box, "another message under transfer {}", s.transfer);
    return &found->second;
  }

  bool receive(int p, const Step& s) {
    Message* message = arrived(p, s);
    if (!message) return false;
    require(message->op == Op::kSend, "not a tensor");
    put(p, s.a, s.box, message->cells, message->slot, s.accumulate);
    messages_.erase(s.transfer);
    return true;
  }

  std::vector<bool>& parts(int p, const Step& s) {
    const bool sums = s.op == Op::kSendSums || s.op == Op::kReceiveSums || s.op == Op::kNormSums;
    auto& parts = sums ? participants_[at(p)].sums[s.node] : participants_[at(p)].moments[s.node];
    parts.resize(at(plan_.participants));
    return parts;
  }

  void send_part(int p, const Step& s) {
    require(parts(p, s)[at(p)], "there is no part to send");
    post(p, s);
  }

  bool receive_part(int p, const Step& s) {
    Message* message = arrived(p, s);
    if (!message) return false;
    require(message->op == (s.op == Op::kReceiveSums ? Op::kSendSums : Op::kSendMoments), "another kind of part");
    require(!parts(p, s)[at(s.peer)], "a part that is here already");
    parts(p, s)[at(s.peer)] = true;
    messages_.erase(s.transfer);
    return true;
  }

  void merge(std::vector<bool>& parts, bool& merged, int node) {
    parts.resize(at(plan_.participants));
    require(!merged, "merged twice");
    for (int p = 0; p < plan_.participants; ++p) require(parts[at(p)] == !plan_.box(node, p).empty(), "the part of participant {}", p);
    merged = true;
  }

  // --- steps -----------------------------------------------------------------------------------------------------

  void fill(int p, const Step& s) {
    const Buffer& b = buffer(p, s.a);
    if (b.slot == Slot::kGradient) return change(p, s.a, s.node, {Slot::kGradient}, b.box, kNothing, kDefined);
    if (b.slot != Slot::kDelta) {
      require(!in_backward_ || plan_.recompute, "in the backward pass");
      require(graph_[s.node].kind == LayerKind::kConvolutional && brute_input_box(graph_, s.node, 0, s.box).empty(), "nothing to fill");
      change(p, s.a, s.node, {Slot::kStored}, s.box, kNothing, kRaw);
    } else {
      change(p, s.a, b.node, {Slot::kDelta}, s.box, kNothing, kDefined);
    }
  }

  void forward_step(int p, const Step& s) {
    const Layer& layer = graph_[s.node];
    const auto reads = [&](std::size_t input, int number) {
      read_output(p, number, layer.inputs[input], brute_input_box(graph_, s.node, static_cast<int>(input), s.box));
    };
    const auto writes = [&](State state) { change(p, s.b, s.node, {Slot::kStored}, s.box, kNothing, state); };
    switch (s.op) {
      case Op::kConvolution:
        reads(0, s.a), writes(kRaw);
        break;
      case Op::kBiasActivate:
        require(!layer.batch_normalize, "normalised");
        change(p, s.a, s.node, {Slot::kStored}, s.box, kRaw, kFinal);
        break;
      case Op::kMoments:
        require(train_ && s.box == plan_.box(s.node, p) && !parts(p, s)[at(p)], "not the owned box, or twice");
        expect(p, s.a, s.node, {Slot::kStored}, s.box, kRaw);
        parts(p, s)[at(p)] = true;
        break;
      case Op::kNormalize:
        normalize(p, s);
        break;
      case Op::kMaxpool:
        reads(0, s.a), writes(kFinal);
        require(train_ && layer.backward ? s.c >= 0 : s.c < 0, "winners {}", s.c);
        if (s.c >= 0) change(p, s.c, s.node, {Slot::kWinners}, s.box, kNothing, kFinal);
        break;
      case Op::kNormalizeMaxpool: {
        const int source = layer.inputs[0];
        require(layer.kind == LayerKind::kMaxpool && graph_[source].batch_normalize, "nothing to normalise");
        require(!train_ || participants_[at(p)].moments_merged[source], "before the statistics");
        expect(p, s.a, source, {Slot::kStored}, brute_input_box(graph_, s.node, 0, s.box), kRaw);
        writes(kFinal);
        require(train_ && layer.backward ? s.c >= 0 : s.c < 0, "winners {}", s.c);
        if (s.c >= 0) change(p, s.c, s.node, {Slot::kWinners}, s.box, kNothing, kFinal);
        break;
      }
      case Op::kRoute: {
        const int input = s.input;
        const Box whole = Box::whole(plan_.batch, graph_[layer.inputs[at(input)]].out);
        require(brute_output_box(graph_, s.node, input, whole).contains(s.box), "channels of another input");
        reads(at(input), s.a), writes(kFinal);
        break;
      }
      case Op::kShortcut:
        reads(0, s.a), reads(1, s.c), writes(kFinal);
        break;
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
    require(!train_ || participants_[at(p)].moments_merged[s.node], "before the statistics");
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
        require(participants_[at(p)].sums_merged[s.node], "before the sums");
        expect(p, s.b, s.node, {Slot::kStored}, s.box, kRaw);
        require_delta(p, s.a, s.node, s.box, kActivationUndone);
        cells(p, s.a, s.node, {Slot::kDelta}, s.box, [](State& state, Index, Index, Index) { state |= kNormUndone; });
        break;
      case Op::kConvolutionWeights:
        require(s.box == plan_.box(s.node, p) && gradients_.insert({{s.node, p}, true}).second, "not the owned box, or twice");
        read_output(p, s.a, layer.inputs[0], brute_input_box(graph_, s.node, 0, s.box));
        require_delta(p, s.b, s.node, s.box, fully_undone(s.node));
        require((s.c >= 0) == (plan_.single_pass && p != 0), "gradient in buffer {}", s.c);
        if (s.c >= 0) expect(p, s.c, s.node, {Slot::kGradient}, buffer(p, s.c).box, kDefined);
        gradient_sums_.computed(p, s.node);
        break;
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

  void undo_activation(int p, const Step& s) {
    const Layer& layer = graph_[s.node];
    require(undoes_activation(s.node) && layer.batch_normalize == (s.op == Op::kNormSums), "wrong step");
    require(s.owned == plan_.box(s.node, p) && s.box.contains(s.owned), "sums over {}", to_string(s.owned));
    if (layer.batch_normalize) {
      expect(p, s.b, s.node, {Slot::kStored}, s.box, kRaw);
      require(!parts(p, s)[at(p)], "twice");
      if (!s.owned.empty()) parts(p, s)[at(p)] = true;
    } else {
      if (layer.activation != "linear") expect(p, s.b, s.node, {Slot::kStored}, s.box, kFinal);
      if (!s.owned.empty()) require(bias_sums_.insert({{s.node, p}, true}).second, "bias sums twice");
    }
    require_delta(p, s.a, s.node, s.box, 0);
    cells(p, s.a, s.node, {Slot::kDelta}, s.box, [](State& state, Index, Index, Index) { state |= kActivationUndone; });
  }

  void add_part(int p, const Step& s) {
    const Layer& layer = graph_[s.node];
    const int source = layer.inputs[at(s.input)];
    const auto& uses = sources_[at(source)].uses;
    std::size_t use = 0;
    while (use < uses.size() && !(uses[use].layer == s.node && uses[use].input == s.input)) ++use;
    require(use < uses.size() && graph_[source].backward, "this part does not count");
    const Box seen = brute_output_box(graph_, s.node, s.input, s.box);
    require_delta(p, s.a, s.node, seen, fully_undone(s.node));
    if (layer.kind == LayerKind::kMaxpool) expect(p, s.c, s.node, {Slot::kWinners}, seen, kFinal);
    if (layer.kind == LayerKind::kReorg) require(!s.accumulate, "reorg cannot add");
    cells(p, s.b, source, {Slot::kDelta}, s.box, [&](State& state, Index, Index, Index) {
      require(s.accumulate == (state != kNothing) && !(state & (kFirstUse << use)), "accumulate is {}, the delta has {:#x}", s.accumulate,
              state);
      state |= kDefined | (kFirstUse << use);
    });
  }

  // --- at the end ------------------------------------------------------------------------------------------------

  void check_delivered() {
    for (int node = graph_.first_layer(); node < graph_.size(); ++node)
      if (graph_[node].delivered) {
        where_ = fmt::format("node {}: ", node);
        const int number = coordinators(node, Slot::kDelivered);
        require(number >= 0, "not delivered");
        expect(0, number, node, {Slot::kDelivered}, whole(node), kFinal);
      }
  }

  // The coordinator's buffer, -1 if it has none.
  int coordinators(int node, Slot slot) const {
    const auto& buffers = set_.programs[0].buffers;
    for (std::size_t i = 0; i < buffers.size(); ++i)
      if (buffers[i].node == node && buffers[i].slot == slot) return static_cast<int>(i);
    return -1;
  }

  void check_gradients() {
    if (!train_) return;
    where_.clear();
    gradient_sums_.finish();
    for (int node = 0; node < graph_.size(); ++node) {
      const Layer& layer = graph_[node];
      if (!layer.backward) continue;
      where_ = fmt::format("node {}: ", node);
      if (is_input(node)) check_input_delta(node);
      if (!layer.trainable()) continue;
      for (int p = 0; p < plan_.participants; ++p) {
        const Box& owned = plan_.box(node, p);
        // Outputs that see nothing but padding add nothing to the gradient: both ways are right.
        if (owned.empty() || !brute_input_box(graph_, node, 0, owned).empty())
          require(gradients_.contains({node, p}) == !owned.empty(), "the weight gradient of participant {}", p);
        if (!layer.batch_normalize)
          require(bias_sums_.contains({node, p}) == !owned.empty(), "the bias gradient of participant {}", p);
        else
          require(participants_[at(p)].sums_merged[node], "participant {} has no batch-norm gradients", p);
      }
    }
  }

  void check_input_delta(int node) {
    const auto& sources = sources_[at(node)];
    const int number = coordinators(node, Slot::kInputDelta);
    require(number >= 0, "no input delta");
    cells(0, number, node, {Slot::kInputDelta}, whole(node), [&](State& state, Index c, Index y, Index x) {
      require(((state & kExternal) != 0) == !sources.overwrites_external, "the delta from outside at ({}, {}, {})", c, y, x);
      for (std::size_t i = 0; i < sources.uses.size(); ++i)
        require((state & (kFirstUse << i)) || !touched_[at(node)][i].cell(c, y, x), "use {} is missing at ({}, {}, {})", i, c, y, x);
    });
  }

  void check_memory(int p) {
    const auto& program = set_.programs[at(p)];
    std::vector<std::pair<int, int>> lives(program.buffers.size(), {-1, -1});
    int index = 0;
    for (const auto* list : {&program.forward, &program.backward})
      for (const Step& s : *list) {
        for (int number : {s.a, s.b, s.c})
          if (number >= 0) {
            auto& [first, last] = lives[at(number)];
            if (first < 0) first = index;
            last = index;
          }
        ++index;
      }
    for (std::size_t i = 0; i < lives.size(); ++i) {
      const Buffer& a = program.buffers[i];
      where_ = fmt::format("participant {}, buffer {} ({} of node {}): ", p, i, to_string(a.slot), a.node);
      require(a.bytes == static_cast<std::size_t>(a.box.elements()) * program::element_bytes(a.slot), "{} bytes for {}", a.bytes,
              to_string(a.box));
      if (a.external) continue;
      require(lives[i].first >= 0, "never used");
      require(a.offset % program::kBufferAlignment == 0 && a.offset + a.bytes <= program.arena_bytes, "offset {} in an arena of {}",
              a.offset, program.arena_bytes);
      for (std::size_t j = 0; j < i; ++j) {
        const Buffer& b = program.buffers[j];
        if (b.external || lives[i].first > lives[j].second || lives[j].first > lives[i].second) continue;
        require(a.offset + a.bytes <= b.offset || b.offset + b.bytes <= a.offset, "overlaps buffer {} ({} of node {})", j,
                to_string(b.slot), b.node);
      }
    }
  }

  const Graph& graph_;
  const Plan& plan_;
  const ProgramSet& set_;
  const bool train_;
  GradientSumCheck gradient_sums_;
  std::vector<graph::DeltaSources> sources_;
  std::vector<std::vector<Touched>> touched_;  // [node][use]
  std::vector<Participant> participants_;
  std::map<std::uint32_t, Message> messages_;
  std::map<std::uint32_t, bool> seen_transfers_;
  std::map<std::pair<int, int>, bool> gradients_, bias_sums_;  // (node, participant)
  bool in_backward_ = false;
  std::string where_;
  ProgramCheck result_;
};

}  // namespace

ProgramCheck check_programs(const Graph& graph, const Plan& plan, const ProgramSet& set) { return Checker(graph, plan, set).run(); }

}  // namespace tessera::testing
