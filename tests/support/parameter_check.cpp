#include "tests/support/parameter_check.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "tests/support/brute_force.hpp"

namespace tessera::testing {

using geometry::Box;
using geometry::Index;
using geometry::Range;
using program::Phase;
using program::Slot;

namespace {

// Parameters: what the host had at first, or what came of this pass and update.
constexpr State kOld = 1, kNew = 2;
// Momentum, a set of bits: it is here; the total was added; the optimiser used it; participant p's part was added.
constexpr State kHere = 1, kTotal = 2, kUsed = 4;
constexpr State part_of(int p) { return State{1} << (8 + p); }
// A participant's own gradient.
constexpr State kZero = 1, kComputed = 2, kGiven = 4;

std::size_t at(Index i) { return static_cast<std::size_t>(i); }
bool is_rows(Slot slot) { return slot == Slot::kWeights || slot == Slot::kMomentum; }
bool is_momentum(Slot slot) { return slot >= Slot::kMomentum; }
bool is_rolling(Slot slot) { return slot == Slot::kRollingMean || slot == Slot::kRollingVariance; }

template <typename... Args>
void require(bool condition, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) throw std::runtime_error(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace

ParameterCheck::ParameterCheck(const graph::Graph& graph, const plan::Plan& plan, const program::ProgramSet& set)
    : graph_(graph), plan_(plan), set_(set), train_(set.mode == program::Mode::kTrain) {
  for_arrays([&](int node, Slot slot) {
    const auto elements = row(node, slot) * at(graph[node].out.c);
    for (int p = 0; p < plan.participants; ++p) arrays_[{p, node, slot}].resize(elements, p == plan.host ? kOld : 0);
    collected_[{node, slot}].resize(elements);
  });
  for (int node = 0; node < graph.size(); ++node) {
    sees_.emplace_back(at(plan.participants));
    for (int p = 0; p < plan.participants && graph[node].trainable(); ++p)
      sees_.back()[at(p)] = !plan.box(node, p).empty() && !brute_input_box(graph, node, 0, plan.box(node, p)).empty();
  }
}

template <typename Visit>
void ParameterCheck::for_arrays(Visit visit) const {
  for (int node = 0; node < graph_.size(); ++node) {
    if (!graph_[node].trainable()) continue;
    for (const Slot slot : {Slot::kWeights, Slot::kBiases, Slot::kMomentum, Slot::kBiasMomentum}) visit(node, slot);
    if (!graph_[node].batch_normalize) continue;
    for (const Slot slot : {Slot::kScales, Slot::kRollingMean, Slot::kRollingVariance, Slot::kScaleMomentum}) visit(node, slot);
  }
}

std::size_t ParameterCheck::row(int node, Slot slot) const { return is_rows(slot) ? at(graph_.weights(node) / graph_[node].out.c) : 1; }

State* ParameterCheck::cells(int participant, int node, Slot slot) {
  const auto found = arrays_.find({participant, node, slot});
  require(found != arrays_.end(), "node {} has no {}", node, to_string(slot));
  return found->second.data();
}

template <typename Visit>
void ParameterCheck::each(int participant, int node, Slot slot, Range filters, Visit visit) {
  State* data = cells(participant, node, slot);
  const std::size_t size = row(node, slot);
  for (Index f = filters.begin; f < filters.end; ++f)
    for (std::size_t i = 0; i < size; ++i) visit(data[at(f) * size + i], f);
}

void ParameterCheck::read(int participant, int node, Slot slot, Range filters) {
  if (filters.empty()) return;
  const auto& program = set_.programs[at(participant)];
  if (slot == Slot::kWeights) require(program.stored_filters[at(node)].contains(filters), "reads filters that are not stored");
  each(participant, node, slot, filters,
       [&](State state, Index f) { require(state == kOld, "{} of filter {} is in state {}", to_string(slot), f, state); });
  Range& all = read_[{participant, node, slot}];
  all = geometry::hull(all, filters);
}

bool ParameterCheck::is_complete(int node, Slot slot, Index filter, State state) const {
  if (!(state & kHere)) return false;
  state &= ~(kHere | kUsed);
  if (!graph_[node].backward) return state == 0;
  if (slot != Slot::kMomentum && graph_[node].batch_normalize) return state == kTotal;
  for (int p = 0; p < plan_.participants; ++p) {
    const Box& box = plan_.box(node, p);
    const bool owns = !box.empty() && box.c.contains({filter, filter + 1}), has = state & part_of(p);
    // Outputs that see nothing but padding add nothing to the gradient of weights: both ways are right.
    if (has != owns && !(owns && slot == Slot::kMomentum && !sees_[at(node)][at(p)])) return false;
  }
  return !(state & kTotal);
}

void ParameterCheck::require_given(int from, Phase phase, int node, Slot slot, Index filter, State state) const {
  const bool home = plan_.filters(node, from).contains({filter, filter + 1});
  const char* name = to_string(slot);
  switch (phase) {
    case Phase::kShare:
      require(!is_momentum(slot) && !is_rolling(slot) && home && state == kNew, "{} of filter {} is not fresh", name, filter);
      break;
    case Phase::kGather:
      require(home, "{} of filter {} is not at home", name, filter);
      require(is_momentum(slot) ? (state & kUsed) && is_complete(node, slot, filter, state) : state == kNew,
              "{} of filter {} is in state {:#x}", name, filter, state);
      break;
    case Phase::kScatter:
      require(!is_momentum(slot) && state == kOld, "{} of filter {} is in state {:#x}", name, filter, state);
      break;
    case Phase::kScatterMomentum:
      require(is_momentum(slot) && state == kHere, "{} of filter {} is in state {:#x}", name, filter, state);
      break;
    default:
      require(false, "{} leaves in the wrong phase", name);
  }
}

void ParameterCheck::take(int to, Phase phase, int node, Slot slot, Index filter, State& state) {
  const auto& program = set_.programs[at(to)];
  const Range one{filter, filter + 1};
  if (slot == Slot::kWeights) require(program.stored_filters[at(node)].contains(one), "filter {} is not stored", filter);
  if (is_momentum(slot)) require(program.home_filters[at(node)].contains(one), "filter {} is not at home", filter);
  if (phase == Phase::kShare) {  // biases and scales may come twice: with some of the filters, and for all
    require(state == kOld || (state == kNew && slot != Slot::kWeights), "{} of filter {} is in state {}", to_string(slot), filter, state);
    state = kNew;
  } else {
    require(state == 0, "{} of filter {} is here already", to_string(slot), filter);
    state = kOld;
  }
}

void ParameterCheck::collect(int node, Slot slot, std::size_t element) {
  auto&& done = collected_[{node, slot}][element];
  require(!done, "element {} of {} comes to the host twice", element, to_string(slot));
  done = true;
}

void ParameterCheck::compute_part(State& state) {
  require(state == kZero, "a gradient is added to state {}", state);
  state |= kComputed;
}

void ParameterCheck::give_part(int participant, int node, State& state) const {
  require((state & kZero) && ((state & kComputed) || !sees_[at(node)][at(participant)]), "a gradient is given that was not computed");
  state |= kGiven;
}

void ParameterCheck::zero_part(State& state) {
  require((state & kZero) && (state & kGiven), "a gradient is zeroed before it was given");
  state = kZero;
}

bool ParameterCheck::is_zero(State state) { return state == kZero; }

void ParameterCheck::contribute(int home, int from, int node, Slot slot, Index filter, State& state) {
  const Range one{filter, filter + 1};
  require(plan_.filters(node, home).contains(one) && set_.programs[at(home)].home_filters[at(node)].contains(one),
          "filter {} is not at home", filter);
  require(!plan_.box(node, from).empty() && plan_.box(node, from).c.contains(one), "participant {} has no part of filter {}", from, filter);
  require((state & kHere) && !(state & (kUsed | part_of(from))), "{} of filter {} is in state {:#x}, participant {} adds its part",
          to_string(slot), filter, state, from);
  state |= part_of(from);
}

void ParameterCheck::contribute_total(int home, int node, Range filters) {
  require(plan_.filters(node, home) == filters, "not the filters at home");
  for (const Slot slot : {Slot::kBiasMomentum, Slot::kScaleMomentum})
    each(home, node, slot, filters, [&](State& state, Index) {
      require(state == kHere, "{} is in state {:#x}", to_string(slot), state);
      state |= kTotal;
    });
}

void ParameterCheck::finish_moments(int participant, int node) {
  for (const Slot slot : {Slot::kRollingMean, Slot::kRollingVariance})
    each(participant, node, slot, {0, graph_[node].out.c}, [&](State& state, Index) {
      require(state == kOld, "{} is in state {}", to_string(slot), state);
      state = kNew;
    });
}

void ParameterCheck::inspect(int participant, int node, const Box& box) {
  const Range home = plan_.filters(node, participant);
  require(box.n == home && inspected_.insert({participant, node}).second, "looks at {}, or twice", to_string(box));
  for (const Slot slot : {Slot::kMomentum, Slot::kBiasMomentum, Slot::kScaleMomentum}) {
    if (slot == Slot::kScaleMomentum && !graph_[node].batch_normalize) continue;
    each(participant, node, slot, home, [&](State state, Index f) {
      require(is_complete(node, slot, f, state), "{} of filter {} is in state {:#x}", to_string(slot), f, state);
    });
  }
}

void ParameterCheck::update(int participant, int node, const Box& box) {
  const Range home = plan_.filters(node, participant);
  const Index kernel = graph_[node].kernel;
  require(box == Box{home, {0, graph_.input_channels(node)}, {0, kernel}, {0, kernel}}, "updates {}", to_string(box));
  using Pair = std::pair<Slot, Slot>;
  for (const auto& [value, momentum] :
       {Pair{Slot::kWeights, Slot::kMomentum}, Pair{Slot::kBiases, Slot::kBiasMomentum}, Pair{Slot::kScales, Slot::kScaleMomentum}}) {
    if (value == Slot::kScales && !graph_[node].batch_normalize) continue;
    each(participant, node, momentum, home, [&, slot = momentum](State& state, Index f) {
      require(!(state & kUsed) && is_complete(node, slot, f, state), "{} of filter {} is in state {:#x}", to_string(slot), f, state);
      state |= kUsed;
    });
    each(participant, node, value, home, [&, slot = value](State& state, Index f) {
      require(state == kOld, "{} of filter {} is in state {}", to_string(slot), f, state);
      state = kNew;
    });
  }
}

void ParameterCheck::after_scatter() {
  for (int p = 0; p < plan_.participants; ++p)
    for_arrays([&](int node, Slot slot) {
      const auto& program = set_.programs[at(p)];
      const Range stored = program.stored_filters[at(node)], home = train_ ? plan_.filters(node, p) : Range{};
      require(program.home_filters[at(node)] == home && stored.contains(plan_.filters(node, p)), "node {}: filters of participant {}", node,
              p);
      if (!is_rows(slot) && !is_momentum(slot)) return;  // vectors are checked when they are read
      each(p, node, slot, is_momentum(slot) ? home : stored, [&, node = node, slot = slot](State state, Index f) {
        require(state == kOld, "node {}: participant {} has no {} of filter {}", node, p, to_string(slot), f);
      });
    });
}

void ParameterCheck::after_forward() {
  if (!train_) return;
  for (int p = 0; p < plan_.participants; ++p)
    for_arrays([&](int node, Slot slot) {
      if (!is_rolling(slot) || p == plan_.host) return;
      each(p, node, slot, {0, graph_[node].out.c}, [&, node = node](State state, Index) {
        require(state != kOld, "node {}: rolling averages of participant {} are not kept up", node, p);
      });
    });
}

void ParameterCheck::after_backward() {
  for (int p = 0; p < plan_.participants && train_; ++p)
    for (int node = graph_.first_layer(); node < graph_.size(); ++node)
      require(inspected_.contains({p, node}) == (graph_[node].backward && !plan_.filters(node, p).empty()),
              "node {}: participant {} does not look at its gradient", node, p);
}

void ParameterCheck::after_share() {
  for (int p = 0; p < plan_.participants && train_; ++p)
    for_arrays([&](int node, Slot slot) {
      if (is_momentum(slot) || is_rolling(slot)) return;
      Range fresh = geometry::hull(plan_.filters(node, p), read_[{p, node, slot}]);
      if (slot == Slot::kWeights) fresh = geometry::hull(fresh, set_.programs[at(p)].stored_filters[at(node)]);
      each(p, node, slot, fresh, [&, node = node, slot = slot](State state, Index f) {
        require(state == kNew, "node {}: participant {} has stale {} of filter {}", node, p, to_string(slot), f);
      });
    });
}

void ParameterCheck::after_gather() {
  for (const auto& [key, done] : collected_)
    require(!train_ || std::ranges::count(done, false) == 0, "node {}: the host lacks {}", key.first, to_string(key.second));
}

}  // namespace tessera::testing
