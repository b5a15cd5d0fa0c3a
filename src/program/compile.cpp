#include "program/compile.hpp"

#include <array>
#include <functional>
#include <map>
#include <optional>
#include <unordered_map>

#include "base/check.hpp"
#include "graph/footprint.hpp"
#include "graph/layers/kind.hpp"

namespace tessera::program {

using graph::Graph;
using graph::LayerKind;
using graph::Use;
using plan::Plan;

namespace {

std::size_t at(int i) { return static_cast<std::size_t>(i); }

// What is reduced in one round is about this many elements for every home: little is on the way beside the tensors.
constexpr Index kLargestChunk = Index{1} << 16;
// Parameters travel in messages of up to this many elements.
constexpr Index kLargestPiece = Index{1} << 18;
constexpr Index kMomentFields = 3, kSumFields = 2;

Box by_filter(Range filters) { return filters.empty() ? Box{} : Box{filters, {0, 1}, {0, 1}, {0, 1}}; }

// Emits the steps of one participant. Both ends of a transfer are made from the same boxes in the same order, each by its own
// compiler.
class Compiler {
 public:
  Compiler(const Graph& graph, const Plan& plan, const Regions& regions, Mode mode, int self)
      : graph_(graph),
        plan_(plan),
        mode_(mode),
        self_(self),
        regions_(regions),
        uses_(graph::uses(graph)),
        recomputed_(plan.forward_starts.size() + 1) {
    has_delta_.resize(graph.layers.size());
    slots_.resize(graph.layers.size());
    for (auto& numbers : slots_) numbers.fill(-1);
    program_.mode = mode;
    program_.self = self;
    program_.participants = plan.participants;
    program_.wire = plan.wire;
  }

  Program compile(Extent extent) {
    parameters();
    begin(Phase::kLoad), load();
    begin(Phase::kForward), forward();
    if (mode_ == Mode::kTrain) {
      begin(Phase::kBackward), backward();
      begin(Phase::kUpdate), update();
      begin(Phase::kShare), share();
    }
    if (extent == Extent::kIteration) {
      bound_memory(program_);
      return std::move(program_);
    }
    if (mode_ == Mode::kTrain) {
      begin(Phase::kGather), gather();
      begin(Phase::kScatterMomentum), scatter_momentum();
    }
    begin(Phase::kScatter), scatter();
    plan_memory(program_);
    return std::move(program_);
  }

 private:
  using Steps = std::vector<Step>;

  // --- who needs what ----------------------------------------------------------------------------------------------

  int participants() const { return plan_.participants; }
  const Box& owned(int node) const { return plan_.box(node, self_); }
  const Box& region(const Regions::Table& table, int node) const { return regions_.at(table, node, self_); }
  bool is_input(int node) const { return graph_[node].kind == LayerKind::kInput; }
  Box whole(int node) const { return Box::whole(plan_.batch, graph_[node].out); }
  bool is_host() const { return self_ == plan_.host; }

  // Calls visit(peer) for all others, beginning with the next one, so that not all turn to the same peer at once.
  template <typename Visit>
  void for_others(Visit visit) const {
    for (int i = 1; i < participants(); ++i) visit((self_ + i) % participants());
  }

  // Statistics, biases and scales of the layer are used there.
  bool normalizes(int node, int p) const {
    return !regions_.at(regions_.held, node, p).empty() || !regions_.at(regions_.delta, node, p).empty() ||
           !plan_.filters(node, p).empty() || plan_.statistics[at(node)] == p;
  }

  // Filters whose weights are read or owned there.
  Range stored_filters(int node, int p) const {
    if (!graph_[node].trainable()) return {};
    const Range used = geometry::hull(regions_.at(regions_.computed, node, p).c, regions_.at(regions_.delta, node, p).c);
    return geometry::hull(used, plan_.filters(node, p));
  }

  Box weights_of(int node, Range filters) const {
    if (filters.empty()) return {};
    const Index kernel = graph_[node].kernel;
    return {filters, {0, graph_.input_channels(node)}, {0, kernel}, {0, kernel}};
  }
  Index filter_elements(int node) const { return weights_of(node, {0, 1}).elements(); }

  // `filters` in runs of up to `most` elements of weights.
  std::vector<Range> pieces(int node, Range filters, Index most) const {
    std::vector<Range> result;
    const Index step = std::max<Index>(1, most / filter_elements(node));
    for (Index first = filters.begin; first < filters.end; first += step) result.push_back({first, std::min(filters.end, first + step)});
    return result;
  }

  void parameters() {
    for (int node = 0; node < graph_.size(); ++node) {
      program_.stored_filters.push_back(stored_filters(node, self_));
      program_.home_filters.push_back(graph_[node].trainable() && mode_ == Mode::kTrain ? plan_.filters(node, self_) : Range{});
      if (!graph_[node].trainable()) continue;
      const Index vectors = graph_[node].batch_normalize ? 4 : 1, momentum = graph_[node].batch_normalize ? 2 : 1;
      const Index elements = filter_elements(node) * (program_.stored_filters.back().size() + program_.home_filters.back().size()) +
                             vectors * graph_[node].out.c + momentum * program_.home_filters.back().size();
      program_.parameter_bytes += static_cast<std::size_t>(elements) * sizeof(float);
    }
  }

  // --- buffers ---------------------------------------------------------------------------------------------------

  // The buffer for (node, slot), made on first use. -1 when its box is empty.
  int buffer(int node, Slot slot, const Box& box, Storage storage = Storage::kArena) {
    if (box.empty()) return -1;
    int& known = number(node, slot);
    if (known >= 0) return known;
    program_.buffers.push_back({node, slot, box, static_cast<std::size_t>(box.elements()) * element_bytes(slot), storage, 0, -1, -1});
    return known = static_cast<int>(program_.buffers.size()) - 1;
  }
  int& number(int node, Slot slot) { return slots_[at(node)][static_cast<std::size_t>(slot)]; }
  bool has_buffer(int node, Slot slot) const { return slots_[at(node)][static_cast<std::size_t>(slot)] >= 0; }

  // Forgets the buffer, so that the next use of (node, slot) makes another one with a life of its own.
  void retire(int node, Slot slot) { number(node, slot) = -1; }

  int stored(int node) {
    if (is_input(node)) {
      const Box& made = plan_.source(node, self_);
      TESSERA_CHECK(made.empty() || made.contains(region(regions_.held, node)), "input {} is made in part only", node);
      if (!made.empty()) return buffer(node, Slot::kStored, made, Storage::kCaller);
    }
    return buffer(node, Slot::kStored, region(regions_.held, node));
  }

  // True when the layer's output is made from its stored tensor by normalisation.
  bool normalized(int node) const { return mode_ == Mode::kTrain && graph_[node].batch_normalize; }

  // The layer's output in the forward pass.
  int output(int node) {
    if (!normalized(node)) return stored(node);
    return buffer(node, Slot::kActive, region(regions_.forward_held, node));
  }

  // A batch-normalised layer that only a max-pool reads, whose windows do not overlap: the pool normalises what it reads, and
  // the normalised tensor is never made. Not where a part of it is fetched.
  bool is_pooled_raw(int node) const {
    const auto& uses = uses_[at(node)];
    if (!graph_[node].batch_normalize || graph_[node].delivered || uses.size() != 1) return false;
    const auto& reader = graph_[uses[0].layer];
    return reader.kind == LayerKind::kMaxpool && reader.kernel <= reader.stride && !regions_.fetched_forward[at(node)];
  }

  bool output_is_read(int node) const { return graph_[node].delivered || !uses_[at(node)].empty(); }

  int winners(int node) {
    if (mode_ == Mode::kTest || !graph_[node].backward) return -1;
    return buffer(node, Slot::kWinners, region(regions_.winners, node));
  }

  int delta(int node) { return buffer(node, Slot::kDelta, is_input(node) ? owned(node) : region(regions_.delta, node)); }

  // The array of all filters; which of them are here is the executor's matter.
  int parameter(int node, Slot slot) {
    const Range filters{0, graph_[node].out.c};
    const bool rows = slot == Slot::kWeights || slot == Slot::kMomentum;
    return buffer(node, slot, rows ? weights_of(node, filters) : by_filter(filters), Storage::kParameters);
  }

  // --- steps -----------------------------------------------------------------------------------------------------

  void begin(Phase phase) {
    phase_ = phase;
    steps_ = &program_.steps(phase);
  }

  Step step(Op op, int node) const {
    Step step;
    step.op = op, step.phase = phase_, step.node = node;
    return step;
  }
  Step& emit(Op op, int node) { return steps_->emplace_back(step(op, node)); }

  // Both ends count the transfers of a tensor between them.
  std::uint32_t transfer_number(Slot slot, int node, int peer, bool sends) {
    const auto key = (static_cast<std::uint64_t>(peer) << 32) | (static_cast<std::uint64_t>(slot) << 20) |
                     (static_cast<std::uint64_t>(node) << 1) | static_cast<std::uint64_t>(sends);
    const std::uint32_t count = transfers_[key]++;
    TESSERA_CHECK(count < kMostTransfers && node < kMostNodes, "{} transfers of node {}", count, node);
    return (static_cast<std::uint32_t>(slot) << 27) | (static_cast<std::uint32_t>(node) << 15) | count;
  }
  static constexpr std::uint32_t kMostTransfers = 1u << 15;
  static constexpr int kMostNodes = 1 << 12;

  // `kind`: what the sender calls it.
  Step& send(Slot kind, int from, int node, const Box& box, int peer) {
    Step& step = emit(Op::kSend, node);
    step.a = from, step.box = box, step.peer = peer, step.transfer = transfer_number(kind, node, peer, true);
    return step;
  }
  Step receive(Slot kind, int to, int node, const Box& box, int peer, bool accumulate = false) {
    Step step = this->step(Op::kReceive, node);
    step.a = to, step.box = box, step.peer = peer, step.accumulate = accumulate;
    step.transfer = transfer_number(kind, node, peer, false);
    return step;
  }

  // Work that nobody waits for (weight gradients), put off until messages are on their way.
  void flush_delayed() {
    steps_->insert(steps_->end(), delayed_.begin(), delayed_.end());
    delayed_.clear();
  }

  // All sends first, then what was put off, then the receives: nobody waits while it has something to give or to do.
  void finish_transfers(Steps& receives) {
    flush_delayed();
    steps_->insert(steps_->end(), receives.begin(), receives.end());
    receives.clear();
  }

  // A need is met by those who have the boxes: this participant's part leaves at once, what it needs itself joins `receives`.
  template <typename Buffer, typename Source>
  void meet(const Need& need, Slot kind, Buffer buffer, Source source, Steps& receives) {
    for (const Box& box : need.boxes) {
      if (need.participant != self_) {
        if (const Box part = geometry::intersect(box, source(self_)); !part.empty())
          send(kind, buffer(), need.node, part, need.participant);
        continue;
      }
      for (int from = 0; from < participants(); ++from)
        if (const Box part = geometry::intersect(box, source(from)); from != self_ && !part.empty())
          receives.push_back(receive(kind, buffer(), need.node, part, from));
    }
  }

  void meet_stored(const Need& need, Steps& receives) {
    meet(
        need, Slot::kStored, [&] { return stored(need.node); }, [&](int p) { return plan_.source(need.node, p); }, receives);
  }

  // --- statistics ------------------------------------------------------------------------------------------------

  // Every owner's part of a layer's statistics to their home, or to everybody who needs them; `meanwhile` runs when the parts
  // have left. In between stands what this participant computed as its part, in `slot`.
  void merge_statistics(
      int node, Slot slot, const std::function<void()>& meanwhile = [] {}) {
    const bool sums = slot == Slot::kSums;
    const Slot merged_slot = sums ? Slot::kMergedSums : Slot::kMergedMoments;
    const Op merge = sums ? Op::kMergeSums : Op::kMergeMoments, finish = sums ? Op::kFinishSums : Op::kFinishMoments;
    const int home = plan_.statistics[at(node)];
    const Index fields = sums ? kSumFields : kMomentFields;
    if (!normalizes(node, self_)) return meanwhile();
    const auto part = [&](int p) { return Box{{p, p + 1}, plan_.box(node, p).c, {0, 1}, {0, fields}}; };
    const bool merges = home == plan::kMergedByAll || home == self_;
    const Box all{{0, 1}, {0, graph_[node].out.c}, {0, 1}, {0, fields}};
    Steps receives;
    for_others([&](int p) {
      const bool wanted = home == plan::kMergedByAll ? normalizes(node, p) : home == p;
      if (!owned(node).empty() && wanted) send(slot, parts(node, slot), node, part(self_), p);
    });
    for (int p = 0; p < participants() && merges; ++p)
      if (p != self_ && !plan_.box(node, p).empty()) receives.push_back(receive(slot, parts(node, slot), node, part(p), p));
    meanwhile();
    finish_transfers(receives);
    const int merged = buffer(node, merged_slot, all);
    if (merges) {
      Step& step = emit(merge, node);
      step.a = parts(node, slot), step.b = merged;
    } else {
      steps_->push_back(receive(merged_slot, merged, node, all, home));
    }
    if (home == self_)
      for_others([&](int p) {
        if (normalizes(node, p)) send(merged_slot, merged, node, all, p);
      });
    Step& step = emit(finish, node);
    step.a = merged;
    if (sums && !plan_.filters(node, self_).empty()) {
      step.box = by_filter(plan_.filters(node, self_));
      step.b = parameter(node, Slot::kBiasMomentum), step.c = parameter(node, Slot::kScaleMomentum);
    }
    retire(node, slot), retire(node, merged_slot);
  }

  // The owners' parts as far as they come here. Zeroed, where parts leave out channels.
  int parts(int node, Slot slot) {
    const bool known = has_buffer(node, slot);
    const int home = plan_.statistics[at(node)];
    Range owners;
    for (int p = 0; p < participants(); ++p)
      if (!plan_.box(node, p).empty() && (home == plan::kMergedByAll || home == self_ || p == self_))
        owners = geometry::hull(owners, {p, p + 1});
    const Box box{owners, {0, graph_[node].out.c}, {0, 1}, {0, slot == Slot::kSums ? kSumFields : kMomentFields}};
    const int number = buffer(node, slot, box);
    if (!known && number >= 0) {
      Step& fill = emit(Op::kFill, node);
      fill.a = number, fill.box = box;
    }
    return number;
  }

  // --- forward ---------------------------------------------------------------------------------------------------

  // The inputs, from who makes them to who reads them.
  void load() {
    Steps receives;
    for (const auto& needs : regions_.forward_needs)
      for (const Need& need : needs)
        if (is_input(need.node)) meet_stored(need, receives);
    finish_transfers(receives);
  }

  void forward() {
    for (int node = graph_.first_layer(); node < graph_.size(); ++node) {
      const int group = regions_.forward_group[at(node)];
      if (group != regions_.forward_group[at(node - 1)]) forward_fetches(group);
      const auto boundary = compute_boundary(node);
      if (boundary) send_to_next_group(node);
      forward_layer(node, boundary.value_or(std::vector<Box>{}));
      const auto send = [&] {
        if (!boundary) send_to_next_group(node);
      };
      if (!normalized(node)) {
        send();
      } else {
        merge_statistics(node, Slot::kMoments, send);
        if (!is_pooled_raw(node)) normalize(node, region(regions_.computed, node));
      }
    }
    deliver();
  }

  // The needs of a tensor that are met as soon as it is there; null: there is no next group.
  const std::vector<Need>* next_needs(int node) const {
    const auto next = at(regions_.forward_group[at(node)] + 1);
    return next < regions_.forward_needs.size() ? &regions_.forward_needs[next] : nullptr;
  }

  // The parts of a convolution's output that others wait for, computed first where the plan says so: disjoint. Nothing where it does
  // not, or nobody waits, or where it is more than half of some participant's part: whether parts leave early is the same for all.
  std::optional<std::vector<Box>> compute_boundary(int node) {
    const auto* needs = next_needs(node);
    if (!plan_.boundary_first || graph_[node].kind != LayerKind::kConvolutional || !needs) return {};
    std::vector<std::vector<Box>> boundaries(at(participants()));
    bool any = false;
    for (const Need& need : *needs)
      for (const Box& box : need.boxes)
        for (int from = 0; from < participants() && need.node == node; ++from) {
          const Box part = geometry::intersect(box, plan_.box(node, from));
          if (part.empty() || from == need.participant) continue;
          auto& boundary = boundaries[at(from)];
          for (const Box& rest : geometry::subtract(part, boundary)) boundary.push_back(rest), any = true;
        }
    if (!any) return {};
    for (int p = 0; p < participants(); ++p) {
      Index cells = 0;
      for (const Box& box : boundaries[at(p)]) cells += box.elements();
      if (2 * cells > regions_.at(regions_.computed, node, p).elements()) return {};
    }
    for (const Box& part : boundaries[at(self_)]) convolve(node, part);
    return boundaries[at(self_)];
  }

  // What the next group fetches of a tensor leaves as soon as the tensor is there (raw, where it is to be normalised), and is
  // on its way while statistics are exchanged and the tensor is normalised.
  void send_to_next_group(int node) {
    const auto* needs = next_needs(node);
    if (!needs) return;
    for (const Need& need : *needs)
      if (need.node == node) meet_stored(need, sent_early_);
  }

  void forward_fetches(int group) {
    Steps receives;
    const auto& needs = regions_.forward_needs[at(group)];
    for (const Need& need : needs)
      if (!is_input(need.node) && regions_.forward_group[at(need.node)] + 1 != group) meet_stored(need, receives);
    receives.insert(receives.end(), sent_early_.begin(), sent_early_.end());
    sent_early_.clear();
    finish_transfers(receives);
    for (const Need& need : needs)
      if (need.participant == self_ && normalized(need.node))
        for (const Box& box : need.boxes) normalize(need.node, box);
  }

  void normalize(int node, const Box& box) {
    if (box.empty() || !output_is_read(node)) return;
    Step& step = emit(Op::kNormalize, node);
    step.a = stored(node), step.b = output(node), step.box = box;
  }

  // `made`: parts of a convolution's output that are there.
  void forward_layer(int node, const std::vector<Box>& made = {}) {
    const auto& layer = graph_[node];
    const Box& box = region(regions_.computed, node);
    if (box.empty()) return;
    const int out = stored(node);
    const auto input = [&](std::size_t i) { return output(layer.inputs[i]); };
    switch (layer.kind) {
      case LayerKind::kInput:
        break;
      case LayerKind::kConvolutional: {
        for (const Box& part : geometry::subtract(box, made)) convolve(node, part);
        if (normalized(node) && !owned(node).empty() && phase_ == Phase::kForward) {
          const int moments = parts(node, Slot::kMoments);
          Step& step = emit(Op::kMoments, node);
          step.a = out, step.b = moments, step.box = owned(node);
        }
        break;
      }
      case LayerKind::kMaxpool: {
        const bool raw = is_pooled_raw(layer.inputs[0]);
        Step& step = emit(raw ? Op::kNormalizeMaxpool : Op::kMaxpool, node);
        step.a = raw ? stored(layer.inputs[0]) : input(0), step.b = out, step.c = winners(node), step.box = box;
        break;
      }
      case LayerKind::kRoute:
        forward_route(node, out, box);
        break;
      case LayerKind::kShortcut:
        for (std::size_t i = 1; i < layer.inputs.size(); ++i) {  // the first two, then each of the others to what is there
          const int before = i == 1 ? input(0) : out, from = input(i);
          Step& step = emit(Op::kShortcut, node);
          step.a = before, step.b = out, step.c = from, step.box = box, step.input = static_cast<int>(i);
        }
        break;
      case LayerKind::kUpsample:
      case LayerKind::kReorg: {
        Step& step = emit(layer.kind == LayerKind::kUpsample ? Op::kUpsample : Op::kReorg, node);
        step.a = input(0), step.b = out, step.box = box;
        break;
      }
    }
  }

  void convolve(int node, const Box& box) {
    const int in = output(graph_[node].inputs[0]), out = stored(node);
    Step& step = emit(in < 0 ? Op::kFill : Op::kConvolution, node);  // nothing but padding is seen: zeros
    if (in < 0)
      step.a = out;
    else
      step.a = in, step.b = out;
    step.box = box;
    if (!graph_[node].batch_normalize) {
      Step& finish = emit(Op::kBiasActivate, node);
      finish.a = out, finish.box = box;
    } else if (mode_ == Mode::kTest && !is_pooled_raw(node)) {
      Step& finish = emit(Op::kNormalize, node);
      finish.a = finish.b = out, finish.box = box;
    }
  }

  void forward_route(int node, int out, const Box& box) {
    const auto& layer = graph_[node];
    for (std::size_t i = 0; i < layer.inputs.size(); ++i) {
      const Box part = geometry::intersect(box, graph::output_box(graph_, node, static_cast<int>(i), whole(layer.inputs[i])));
      if (part.empty()) continue;
      const int in = output(layer.inputs[i]);
      Step& step = emit(Op::kRoute, node);
      step.input = static_cast<int>(i), step.a = in, step.b = out, step.box = part;
    }
  }

  // The outputs that layers outside the graph read, to the host.
  void deliver() {
    Steps receives;
    for (int node = graph_.first_layer(); node < graph_.size(); ++node) {
      if (!graph_[node].delivered) continue;
      const int target = is_host() ? buffer(node, Slot::kDelivered, whole(node), Storage::kCaller) : -1;
      if (!owned(node).empty() && is_host()) {
        const int from = output(node);
        Step& step = emit(Op::kCopy, node);
        step.a = from, step.b = target, step.box = owned(node);
      } else if (!owned(node).empty()) {
        send(Slot::kDelivered, output(node), node, owned(node), plan_.host);
      }
      for (int p = 0; p < participants() && is_host(); ++p)
        if (p != self_ && !plan_.box(node, p).empty()) receives.push_back(receive(Slot::kDelivered, target, node, plan_.box(node, p), p));
    }
    finish_transfers(receives);
  }

  // --- backward --------------------------------------------------------------------------------------------------

  void backward() {
    forget_insides();
    // Outputs of the forward pass are made again where weight gradients need them.
    for (int node = graph_.first_layer(); node < graph_.size(); ++node)
      if (normalized(node)) retire(node, Slot::kActive);
    external_deltas();
    for (int node = graph_.size() - 1; node >= graph_.first_layer(); --node) {
      if (!graph_[node].backward) continue;
      const int group = regions_.backward_group[at(node)];
      if (node + 1 == graph_.size() || regions_.backward_group[at(node + 1)] != group) {
        recompute_for(group);
        backward_fetches(group);
      }
      backward_layer(node);
    }
    input_deltas();
    flush_delayed();
    steps_->insert(steps_->end(), unsummed_.begin(), unsummed_.end());
    inspect();
  }

  // --- recomputation ---------------------------------------------------------------------------------------------

  // Read within its forward group only: not kept for back-propagation when the plan says so.
  bool is_inside(int node) const {
    const auto& uses = uses_[at(node)];
    return plan_.recompute && !is_input(node) && !graph_[node].delivered && !uses.empty() &&
           std::all_of(uses.begin(), uses.end(),
                       [&](const Use& use) { return regions_.forward_group[at(use.layer)] == regions_.forward_group[at(node)]; });
  }

  void forget_insides() {
    for (int node = graph_.first_layer(); node < graph_.size(); ++node)
      if (is_inside(node)) retire(node, Slot::kStored), retire(node, Slot::kWinners);
  }

  // The insides of all forward groups in which layers of this backward group lie, before anybody fetches from them.
  void recompute_for(int backward_group) {
    for (int node = graph_.first_layer(); node < graph_.size(); ++node) {
      const auto group = at(regions_.forward_group[at(node)]);
      if (regions_.backward_group[at(node)] != backward_group || !graph_[node].backward || recomputed_[group]) continue;
      recomputed_[group] = true;
      recompute(static_cast<int>(group));
    }
  }

  // Each layer inside the group once more as the forward pass computed it, with the statistics that are known by now.
  void recompute(int group) {
    int last = -1;  // what comes after it need not be computed
    std::vector<int> nodes;
    for (int node = graph_.first_layer(); node < graph_.size(); ++node) {
      if (regions_.forward_group[at(node)] != group) continue;
      nodes.push_back(node);
      if (is_inside(node)) last = node;
    }
    if (last < 0) return;
    flush_delayed();
    std::map<int, std::vector<Box>> made;  // outputs of batch-normalised layers, by node
    for (const int node : nodes) {
      if (node > last) break;
      for (const int input : graph_[node].inputs)
        if (is_inside(node) && normalized(input) && !is_pooled_raw(input)) read_again(node, input, made);
      if (is_inside(node)) forward_layer(node);
    }
    // Weight gradients make outputs again when their turn comes, so that these take no memory until then.
    for (const auto& [node, boxes] : made) retire(node, Slot::kActive);
  }

  // The output of a batch-normalised layer as `node` reads it.
  void read_again(int node, int input, std::map<int, std::vector<Box>>& made) {
    const Box& computed = region(regions_.computed, node);
    if (computed.empty()) return;
    if (!made.contains(input)) retire(input, Slot::kActive);
    std::vector<Box>& boxes = made[input];
    for (std::size_t i = 0; i < graph_[node].inputs.size(); ++i) {
      if (graph_[node].inputs[i] != input) continue;
      for (const Box& missing : geometry::subtract(graph::input_box(graph_, node, static_cast<int>(i), computed), boxes)) {
        normalize(input, missing);
        boxes.push_back(missing);
      }
    }
  }

  // --- back-propagation of one layer -----------------------------------------------------------------------------

  int external_delta(int node) { return is_host() ? buffer(node, Slot::kExternalDelta, whole(node), Storage::kCaller) : -1; }

  // The delta from outside as far as it is the node's own: from the host to `box` of each participant.
  template <typename BoxOf>
  void hand_external(int node, BoxOf box, Steps& receives) {
    const Box& own = box(self_);
    for (int p = 0; p < participants() && is_host(); ++p)
      if (p != self_ && !box(p).empty()) send(Slot::kExternalDelta, external_delta(node), node, box(p), p);
    if (own.empty()) return;
    has_delta_[at(node)] = true;
    if (!is_host()) return receives.push_back(receive(Slot::kExternalDelta, delta(node), node, own, plan_.host));
    const int from = external_delta(node), to = delta(node);
    Step& step = emit(Op::kCopy, node);
    step.a = from, step.b = to, step.box = own;
  }

  // Deltas from outside that join parts computed inside: to the owners, before those parts.
  void external_deltas() {
    Steps receives;
    for (int node = graph_.first_layer(); node < graph_.size(); ++node)
      if (const auto& sources = regions_.sources[at(node)]; graph_[node].backward && sources.external && !only_external(sources))
        hand_external(
            node, [&](int p) -> const Box& { return plan_.box(node, p); }, receives);
    finish_transfers(receives);
  }

  void backward_fetches(int group) {
    Steps receives;
    for (const Need& need : regions_.stored_needs[at(group)]) meet_stored(need, receives);
    for (const Need& need : regions_.winner_needs[at(group)])
      meet(
          need, Slot::kWinners, [&] { return winners(need.node); }, [&](int p) { return plan_.box(need.node, p); }, receives);
    for (int node = graph_.first_layer(); node < graph_.size(); ++node)
      if (graph_[node].backward && regions_.backward_group[at(node)] == group && only_external(regions_.sources[at(node)]))
        hand_external(
            node, [&](int p) -> const Box& { return regions_.at(regions_.delta, node, p); }, receives);
    for (const Need& need : regions_.delta_needs[at(group)]) {
      if (only_external(regions_.sources[at(need.node)])) continue;
      meet(
          need, Slot::kDelta, [&] { return delta(need.node); }, [&](int p) { return plan_.box(need.node, p); }, receives);
      if (need.participant == self_) has_delta_[at(need.node)] = true;
    }
    finish_transfers(receives);
  }

  void backward_layer(int node) {
    const auto& layer = graph_[node];
    const Box& box = region(regions_.delta, node);
    if (!has_delta_[at(node)]) fill_delta(node, box);  // nobody's output depends on this layer
    undo_activation(node);
    if (layer.batch_normalize) {
      merge_statistics(node, Slot::kSums);
      if (!box.empty()) {
        const int to = delta(node), from = stored(node);
        Step& step = emit(Op::kNormDelta, node);
        step.a = to, step.b = from, step.box = box;
      }
    }
    Steps receives;
    for (std::size_t i = 0; i < layer.inputs.size(); ++i) backward_input(node, static_cast<int>(i), receives);
    if (layer.trainable()) weight_gradient(node);
    if (!receives.empty()) finish_transfers(receives);
    if (layer.trainable()) reduce(node);
  }

  void fill_delta(int node, const Box& box) {
    if (box.empty()) return;
    const int to = delta(node);
    Step& step = emit(Op::kFill, node);
    step.a = to, step.box = box;
  }

  void undo_activation(int node) {
    const auto& layer = graph_[node];
    const Box& box = region(regions_.delta, node);
    if (box.empty() || !graph::kind(layer).activates || (!layer.trainable() && layer.activation == "linear")) return;
    int sums = -1;
    if (layer.batch_normalize && !owned(node).empty())
      sums = parts(node, Slot::kSums);
    else if (layer.trainable() && !layer.batch_normalize && !owned(node).empty())
      sums = bias_gradient(node);
    const int to = delta(node), from = backward_reads_stored(layer) ? stored(node) : -1;
    Step& step = emit(layer.batch_normalize ? Op::kNormSums : Op::kActivationDelta, node);
    step.a = to, step.b = from, step.c = sums, step.box = box, step.owned = owned(node);
  }

  void backward_input(int node, int input, Steps& receives) {
    const int source = graph_[node].inputs[at(input)];
    const auto& sources = regions_.sources[at(source)].uses;
    const bool counts = std::any_of(sources.begin(), sources.end(), [&](const Use& u) { return u.layer == node && u.input == input; });
    if (!counts || !graph_[source].backward) return;
    if (regions_.by_channels[at(node)]) return add_partial_deltas(node, source, receives);
    const Box box = contribution_box(graph_, regions_, plan_, {node, input}, source, self_);
    if (box.empty()) return;
    const int from = delta(node), to = delta(source), winner = graph_[node].kind == LayerKind::kMaxpool ? winners(node) : -1;
    Step step = this->step(backward_op(graph_[node].kind), node);
    step.input = input, step.a = from, step.b = to, step.box = box, step.c = winner;
    step.accumulate = has_delta_[at(source)];
    if (from < 0) step.op = Op::kFill, step.node = source, step.a = step.b, step.b = step.c = -1;  // no output cell depends on this box
    if (from >= 0 || !step.accumulate) steps_->push_back(step);
    has_delta_[at(source)] = true;
  }

  // Everybody's filters touch the whole input: each computes its part of the delta, which the homes add up in order, their own first.
  void add_partial_deltas(int node, int source, Steps& receives) {
    const auto part_of = [&](int p) { return contribution_box(graph_, regions_, plan_, {node, 0}, source, p); };
    const Box own = part_of(self_);
    const Box& home = plan_.box(source, self_);
    int partial = -1;
    if (!own.empty()) {
      const int from = delta(node);
      partial = buffer(source, Slot::kPartial, own);
      Step& step = emit(Op::kConvolutionData, node);
      step.a = from, step.b = partial, step.box = own;
      for_others([&](int p) {
        if (const Box part = geometry::intersect(own, plan_.box(source, p)); !part.empty()) send(Slot::kPartial, partial, source, part, p);
      });
    }
    if (!home.empty()) {
      const Box part = geometry::intersect(own, home);
      const bool begins = has_delta_[at(source)] || part == home;
      if (!begins) fill_delta(source, home);
      const int to = delta(source);
      if (!part.empty()) {
        Step& step = emit(Op::kCopy, source);
        step.a = partial, step.b = to, step.box = part, step.accumulate = has_delta_[at(source)] || !begins;
      }
      for (int p = 0; p < participants(); ++p)
        if (const Box other = geometry::intersect(part_of(p), home); p != self_ && !other.empty())
          receives.push_back(receive(Slot::kPartial, to, source, other, p, true));
      has_delta_[at(source)] = true;
    }
    retire(source, Slot::kPartial);
  }

  static Op backward_op(LayerKind kind) {
    switch (kind) {
      case LayerKind::kConvolutional:
        return Op::kConvolutionData;
      case LayerKind::kMaxpool:
        return Op::kMaxpoolBackward;
      case LayerKind::kRoute:
        return Op::kRouteBackward;
      case LayerKind::kShortcut:
        return Op::kShortcutBackward;
      case LayerKind::kUpsample:
        return Op::kUpsampleBackward;
      case LayerKind::kReorg:
        return Op::kReorgBackward;
      case LayerKind::kInput:
        break;
    }
    TESSERA_CHECK(false, "an input has no backward step");
    return Op::kFill;
  }

  // --- weights ---------------------------------------------------------------------------------------------------

  // Nobody else has a part of the gradient of the filters that this participant computes, and they are at home here.
  bool sums_alone(int node) const {
    const Range filters = owned(node).c;
    for (int p = 0; p < participants(); ++p)
      if (const Box& box = plan_.box(node, p); p != self_ && !box.empty() && !geometry::intersect(box.c, filters).empty()) return false;
    return plan_.filters(node, self_) == filters;
  }

  // Where this participant's part of the gradient is added: at once to the momentum where nothing has to be summed. One pass per
  // update: for as long as it takes to send it; zeroed by a step in `before`.
  int gradient(int node, Slot slot, Steps& before) {
    const bool weights = slot == Slot::kGradient;
    if (sums_alone(node)) return parameter(node, weights ? Slot::kMomentum : Slot::kBiasMomentum);
    const bool known = has_buffer(node, slot);
    const Box box = weights ? weights_of(node, owned(node).c) : by_filter(owned(node).c);
    const int number = buffer(node, slot, box, plan_.single_pass ? Storage::kArena : Storage::kKept);
    if (known || !plan_.single_pass) return number;
    Step& fill = before.emplace_back(step(Op::kFill, node));
    fill.a = number, fill.box = box;
    return number;
  }
  int bias_gradient(int node) { return gradient(node, Slot::kBiasGradient, *steps_); }

  void weight_gradient(int node) {
    if (owned(node).empty()) return;
    const int source = graph_[node].inputs[0];
    Step step = this->step(Op::kConvolutionWeights, node);
    step.b = delta(node), step.c = gradient(node, Slot::kGradient, delayed_), step.box = owned(node);
    step.a = normalized(source) ? remake_output(source) : stored(source);
    if (step.a < 0) return;  // only padding is seen
    delayed_.push_back(step);
  }

  // The parts of a layer's gradient travel as soon as they are complete and are waited for one round later, so that lower
  // layers' back-propagation goes on meanwhile. Homes add them to their momentum, their own first.
  void reduce(int node) {
    const Range own = owned(node).c, home = plan_.filters(node, self_);
    const bool alone = !own.empty() && sums_alone(node), biases = !graph_[node].batch_normalize;
    if (alone || (own.empty() && home.empty())) return;
    phase_ = Phase::kReduce;
    const Index filters = std::max<Index>(1, kLargestChunk / filter_elements(node));
    const auto round_of = [&](Range all, Index round) {
      return geometry::intersect(all, Range{all.begin + round * filters, all.begin + (round + 1) * filters});
    };
    Index rounds = 0;
    for (int p = 0; p < participants(); ++p) rounds = std::max(rounds, (plan_.filters(node, p).size() + filters - 1) / filters);
    const int weights = own.empty() ? -1 : gradient(node, Slot::kGradient, delayed_);
    const int bias = own.empty() || !biases ? -1 : bias_gradient(node);
    Steps* const list = steps_;
    for (Index round = 0; round < rounds; ++round) {
      Steps later;
      steps_ = &delayed_;
      for_others([&](int p) {
        const Range part = geometry::intersect(own, round_of(plan_.filters(node, p), round));
        if (!part.empty()) send(Slot::kGradient, weights, node, weights_of(node, part), p).b = bias;
      });
      const Range here = round_of(home, round);
      const int sum = home.empty() ? -1 : parameter(node, Slot::kMomentum),
                bias_sum = home.empty() || !biases ? -1 : parameter(node, Slot::kBiasMomentum);
      if (const Range part = geometry::intersect(own, here); !part.empty()) {
        add(node, weights, sum, weights_of(node, part));
        if (biases) add(node, bias, bias_sum, by_filter(part));
      }
      for (int p = 0; p < participants(); ++p) {
        const Range part = geometry::intersect(plan_.box(node, p).empty() ? Range{} : plan_.box(node, p).c, here);
        if (p == self_ || part.empty()) continue;
        later.push_back(receive(Slot::kGradient, sum, node, weights_of(node, part), p, true));
        later.back().b = bias_sum;
      }
      delayed_.insert(delayed_.end(), unsummed_.begin(), unsummed_.end());
      unsummed_ = std::move(later);
    }
    steps_ = &delayed_;
    for (const int number : {weights, bias})
      if (number >= 0 && !plan_.single_pass) {  // for the next batch
        Step& fill = emit(Op::kFill, node);
        fill.a = number, fill.box = program_.buffer(number).box;
      }
    steps_ = list;
    phase_ = Phase::kBackward;
  }

  void add(int node, int from, int to, const Box& box) {
    Step& step = emit(Op::kCopy, node);
    step.a = from, step.b = to, step.box = box, step.accumulate = true;
  }

  void inspect() {
    phase_ = Phase::kReduce;
    for (int node = graph_.first_layer(); node < graph_.size(); ++node) {
      const Range home = plan_.filters(node, self_);
      if (home.empty() || !graph_[node].backward) continue;
      const int sum = parameter(node, Slot::kMomentum);
      Step& step = emit(Op::kInspect, node);
      step.a = sum, step.box = weights_of(node, home);
    }
    phase_ = Phase::kBackward;
  }

  // The output of a batch-normalised layer again, over all that this participant's weight gradients read.
  int remake_output(int node) {
    if (has_buffer(node, Slot::kActive)) return number(node, Slot::kActive);
    Box box;
    for (const Use& use : uses_[at(node)])
      if (graph_[use.layer].trainable() && graph_[use.layer].backward)
        box = geometry::hull(box, graph::input_box(graph_, use.layer, use.input, owned(use.layer)));
    if (box.empty()) return -1;
    Step step = this->step(Op::kNormalize, node);
    step.a = stored(node), step.box = box;
    step.b = buffer(node, Slot::kActive, box);
    delayed_.push_back(step);
    return step.b;
  }

  // The deltas of the graph's inputs, to the host.
  void input_deltas() {
    Steps receives;
    for (int node = 0; node < graph_.first_layer(); ++node) {
      if (!graph_[node].backward) continue;
      const int target = is_host() ? buffer(node, Slot::kInputDelta, whole(node), Storage::kCaller) : -1;
      const bool accumulate = !regions_.sources[at(node)].overwrites_external;
      if (!owned(node).empty()) {
        if (!has_delta_[at(node)]) fill_delta(node, owned(node));
        if (is_host()) {
          const int from = delta(node);
          Step& step = emit(Op::kCopy, node);
          step.a = from, step.b = target, step.box = owned(node), step.accumulate = accumulate;
        } else {
          send(Slot::kInputDelta, delta(node), node, owned(node), plan_.host);
        }
      }
      for (int p = 0; p < participants() && is_host(); ++p)
        if (p != self_ && !plan_.box(node, p).empty())
          receives.push_back(receive(Slot::kInputDelta, target, node, plan_.box(node, p), p, accumulate));
    }
    finish_transfers(receives);
  }

  // --- parameters on their way -------------------------------------------------------------------------------------

  void update() {
    for (int node = graph_.first_layer(); node < graph_.size(); ++node)
      if (const Range home = plan_.filters(node, self_); !home.empty()) emit(Op::kUpdate, node).box = weights_of(node, home);
  }

  // The arrays of a message about parameters.
  struct Arrays {
    int a = -1, b = -1, c = -1;
  };
  Arrays values(int node) {
    return {parameter(node, Slot::kWeights), parameter(node, Slot::kBiases),
            graph_[node].batch_normalize ? parameter(node, Slot::kScales) : -1};
  }
  Arrays vectors(int node) {
    return {parameter(node, Slot::kBiases), graph_[node].batch_normalize ? parameter(node, Slot::kScales) : -1, -1};
  }
  Arrays rolling(int node) { return {parameter(node, Slot::kRollingMean), parameter(node, Slot::kRollingVariance), -1}; }
  Arrays momentum(int node) {
    return {parameter(node, Slot::kMomentum), parameter(node, Slot::kBiasMomentum),
            graph_[node].batch_normalize ? parameter(node, Slot::kScaleMomentum) : -1};
  }

  void give(Slot kind, int node, const Arrays& arrays, const Box& box, int peer) {
    Step& step = send(kind, arrays.a, node, box, peer);
    step.b = arrays.b, step.c = arrays.c;
  }
  void take(Slot kind, int node, const Arrays& arrays, const Box& box, int peer) {
    Step& step = steps_->emplace_back(receive(kind, arrays.a, node, box, peer));
    step.b = arrays.b, step.c = arrays.c;
  }

  // Fresh parameters, from their home to all who read them: whole filters, or biases and scales alone where nothing is convolved
  // with them.
  void share() {
    for (const bool sends : {true, false})
      for (int node = graph_.first_layer(); node < graph_.size(); ++node) {
        if (!graph_[node].trainable()) continue;
        const auto exchange = [&](int home, int reader) {
          const Range fresh = plan_.filters(node, home), read = geometry::intersect(fresh, stored_filters(node, reader));
          for (const Range& piece : pieces(node, read, kLargestPiece))
            sends ? give(Slot::kWeights, node, values(node), weights_of(node, piece), reader)
                  : take(Slot::kWeights, node, values(node), weights_of(node, piece), home);
          if (fresh.empty() || read == fresh || !graph_[node].batch_normalize || !normalizes(node, reader)) return;
          sends ? give(Slot::kBiases, node, vectors(node), by_filter(fresh), reader)
                : take(Slot::kBiases, node, vectors(node), by_filter(fresh), home);
        };
        for_others([&](int p) { sends ? exchange(self_, p) : exchange(p, self_); });
      }
  }

  // Everything that is at home somewhere, to the host; b = -1 in a copy: its own, to where it collects them.
  void gather() {
    for (int node = graph_.first_layer(); node < graph_.size(); ++node) {
      if (!graph_[node].trainable()) continue;
      const auto move = [&](Slot kind, const Arrays& arrays, const Box& box, int home) {
        if (home != self_) return take(kind, node, arrays, box, home);
        if (!is_host()) return give(kind, node, arrays, box, plan_.host);
        for (const int from : {arrays.a, arrays.b, arrays.c}) {
          if (from < 0) continue;
          Step& step = emit(Op::kCopy, node);
          step.a = from, step.box = from == arrays.a ? box : by_filter(box.n);
        }
      };
      for (int home = 0; home < participants(); ++home) {
        if (home != self_ && !is_host()) continue;
        const Range filters = plan_.filters(node, home);
        for (const Range& piece : pieces(node, filters, kLargestPiece)) {
          move(Slot::kWeights, values(node), weights_of(node, piece), home);
          move(Slot::kMomentum, momentum(node), weights_of(node, piece), home);
        }
        if (graph_[node].batch_normalize && !filters.empty()) move(Slot::kRollingMean, rolling(node), by_filter(filters), home);
      }
    }
  }

  // From the host to all who read: those who read the same pass it on to each other, so that it leaves the host once.
  void scatter() {
    for (int node = graph_.first_layer(); node < graph_.size(); ++node) {
      if (!graph_[node].trainable()) continue;
      std::map<std::pair<Index, Index>, std::vector<int>> readers;  // by filters
      std::vector<int> users;
      for (int p = 0; p < participants(); ++p) {
        if (p == plan_.host) continue;
        const Range filters = stored_filters(node, p);
        if (!filters.empty()) readers[{filters.begin, filters.end}].push_back(p);
        if (!filters.empty() || normalizes(node, p)) users.push_back(p);
      }
      for (const auto& [filters, chain] : readers)
        for (const Range& piece : pieces(node, {filters.first, filters.second}, kLargestPiece))
          pass_on(chain, Slot::kWeights, node, {parameter(node, Slot::kWeights), -1, -1}, weights_of(node, piece));
      const Box all = by_filter({0, graph_[node].out.c});
      pass_on(users, Slot::kBiases, node, vectors(node), all);
      if (graph_[node].batch_normalize) pass_on(users, Slot::kRollingMean, node, rolling(node), all);
    }
  }

  void pass_on(const std::vector<int>& chain, Slot kind, int node, const Arrays& arrays, const Box& box) {
    int before = plan_.host;
    for (const int p : chain) {
      if (before == self_) give(kind, node, arrays, box, p);
      if (p == self_) take(kind, node, arrays, box, before);
      before = p;
    }
  }

  void scatter_momentum() {
    for (int node = graph_.first_layer(); node < graph_.size(); ++node)
      for (int p = 0; p < participants() && graph_[node].trainable(); ++p)
        for (const Range& piece : pieces(node, p == plan_.host ? Range{} : plan_.filters(node, p), kLargestPiece))
          pass_on({p}, Slot::kMomentum, node, momentum(node), weights_of(node, piece));
  }

  const Graph& graph_;
  const Plan& plan_;
  const Mode mode_;
  const int self_;
  const Regions& regions_;
  const std::vector<std::vector<Use>> uses_;
  Program program_;
  Phase phase_ = Phase::kLoad;
  Steps* steps_ = nullptr;                                      // of the phase
  std::vector<std::array<int, kSlots>> slots_;                  // buffers by node; -1: none
  std::unordered_map<std::uint64_t, std::uint32_t> transfers_;  // by slot, node, peer, direction
  Steps sent_early_;                                            // receives of the next forward group
  std::vector<bool> recomputed_;                                // [forward group]
  Steps delayed_;
  Steps unsummed_;               // what waits for the last round of a reduction
  std::vector<bool> has_delta_;  // [node]: something was written to the delta
};

}  // namespace

Program compile(const Graph& graph, const Plan& plan, const Regions& regions, Mode mode, int self, Extent extent) {
  return Compiler(graph, plan, regions, mode, self).compile(extent);
}

Program compile(const Graph& graph, const Plan& plan, Mode mode, int self) {
  return compile(graph, plan, program::regions(graph, plan, mode), mode, self);
}

ProgramSet compile(const Graph& graph, const Plan& plan, Mode mode, Extent extent) {
  const Regions regions = program::regions(graph, plan, mode);
  ProgramSet set{mode, {}};
  for (int p = 0; p < plan.participants; ++p) set.programs.push_back(compile(graph, plan, regions, mode, p, extent));
  return set;
}

}  // namespace tessera::program
