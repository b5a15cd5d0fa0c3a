#include "program/compile.hpp"

#include <functional>
#include <map>

#include "base/check.hpp"
#include "graph/footprint.hpp"
#include "program/gradient_chunks.hpp"
#include "program/regions.hpp"

namespace tessera::program {

using graph::Graph;
using graph::LayerKind;
using graph::Use;
using plan::Plan;

namespace {

std::size_t at(int i) { return static_cast<std::size_t>(i); }

// Emits the programs of all participants side by side, so that both ends of every transfer are made together.
class Compiler {
 public:
  Compiler(const Graph& graph, const Plan& plan, Mode mode)
      : graph_(graph), plan_(plan), mode_(mode), regions_(program::regions(graph, plan, mode)), uses_(graph::uses(graph)) {
    set_.mode = mode;
    set_.single_pass = plan.single_pass;
    set_.programs.resize(at(plan.participants));
    slots_.resize(at(plan.participants));
    recomputed_.resize(plan.forward_starts.size() + 1);  // groups count from 1
    delayed_.resize(at(plan.participants));
    unsummed_.resize(at(plan.participants));
    set_.sharding = std::make_shared<const Sharding>(sharding(graph, plan, weights_read()));
    for (const GradientChunk& chunk : set_.sharding->chunks) chunks_[chunk.node].push_back(chunk);
    has_delta_.assign(graph.layers.size(), std::vector<bool>(at(plan.participants)));
  }

  ProgramSet compile() {
    forward();
    if (mode_ == Mode::kTrain) backward();
    for (int p = 0; p < plan_.participants; ++p) {
      Program& program = set_.programs[at(p)];
      program.wire = plan_.wire;
      program.sharding = set_.sharding;
      for (int node = 0; node < graph_.size(); ++node) program.gradient_windows.push_back(window(p, node));
      plan_memory(program);
    }
    return std::move(set_);
  }

 private:
  // --- weights ---------------------------------------------------------------------------------------------------

  std::vector<std::vector<WeightsRead>> weights_read() const {
    std::vector<std::vector<WeightsRead>> reads(graph_.layers.size(), std::vector<WeightsRead>(at(plan_.participants)));
    for (int node = graph_.first_layer(); node < graph_.size(); ++node)
      for (int p = 0; p < plan_.participants && graph_[node].trainable(); ++p) {
        WeightsRead& read = reads[at(node)][at(p)];
        read.filters = regions_.at(regions_.computed, node, p).c;
        const int source = graph_[node].inputs[0];
        if (mode_ == Mode::kTrain && graph_[node].backward && graph_[source].backward)
          read.channels = contribution_box(regions_, plan_, {node, 0}, source, p).c;
      }
    return reads;
  }

  // The coordinator gathers the sums of all in place of its own part.
  geometry::Range window(int p, int node) const {
    return p == 0 ? geometry::Range{0, summed_elements(graph_, node)} : gradient_window(graph_, plan_, node, p);
  }

  // Has a part of this chunk.
  bool gives(int p, const GradientChunk& chunk) const {
    return set_.sharding->by_channels[at(chunk.node)] ? p == chunk.owner : !plan_.box(chunk.node, p).empty();
  }

  // --- buffers ---------------------------------------------------------------------------------------------------

  // The participant's buffer for (node, slot), made on first use. -1 when its box is empty.
  int buffer(int p, int node, Slot slot, const Box& box, bool external = false) {
    if (box.empty()) return -1;
    auto& known = slots_[at(p)];
    const auto found = known.find({node, slot});
    if (found != known.end()) return found->second;
    Program& program = set_.programs[at(p)];
    program.buffers.push_back({node, slot, box, static_cast<std::size_t>(box.elements()) * element_bytes(slot), external, 0, -1, -1});
    return known[{node, slot}] = static_cast<int>(program.buffers.size()) - 1;
  }

  // Forgets the buffer, so that the next use of (node, slot) makes another one with a life of its own.
  void retire(int p, int node, Slot slot) { slots_[at(p)].erase({node, slot}); }

  bool is_input(int node) const { return graph_[node].kind == LayerKind::kInput; }
  Box whole(int node) const { return Box::whole(plan_.batch, graph_[node].out); }

  int stored(int p, int node) {
    if (is_input(node) && p == 0) return buffer(p, node, Slot::kStored, whole(node), true);
    return buffer(p, node, Slot::kStored, regions_.at(regions_.held, node, p));
  }

  // True when the layer's output is made from its stored tensor by normalisation.
  bool normalized(int node) const { return mode_ == Mode::kTrain && graph_[node].batch_normalize; }

  // The layer's output in the forward pass.
  int output(int p, int node) {
    if (!normalized(node)) return stored(p, node);
    return buffer(p, node, Slot::kActive, regions_.at(regions_.forward_held, node, p));
  }

  // A batch-normalised layer that only a max-pool reads, whose windows do not overlap: the pool normalises what it reads, and
  // the normalised tensor is never made. Not where a part of it is fetched.
  bool is_pooled_raw(int node) const {
    const auto& uses = uses_[at(node)];
    if (!graph_[node].batch_normalize || graph_[node].delivered || uses.size() != 1) return false;
    const auto& reader = graph_[uses[0].layer];
    const auto fetches = [&](const std::vector<Fetch>& group) {
      return std::any_of(group.begin(), group.end(), [&](const Fetch& f) { return f.node == node; });
    };
    return reader.kind == LayerKind::kMaxpool && reader.kernel <= reader.stride &&
           std::none_of(regions_.forward_fetches.begin(), regions_.forward_fetches.end(), fetches);
  }

  bool output_is_read(int node) const { return graph_[node].delivered || !uses_[at(node)].empty(); }

  int winners(int p, int node) {
    if (mode_ == Mode::kTest || !graph_[node].backward) return -1;
    return buffer(p, node, Slot::kWinners, regions_.at(regions_.winners, node, p));
  }

  Box delta_box(int p, int node) const { return is_input(node) ? plan_.box(node, p) : regions_.at(regions_.delta, node, p); }
  int delta(int p, int node) { return buffer(p, node, Slot::kDelta, delta_box(p, node)); }

  // --- steps -----------------------------------------------------------------------------------------------------

  std::vector<Step>& steps(int p) { return in_backward_ ? set_.programs[at(p)].backward : set_.programs[at(p)].forward; }
  Step& emit(int p, Op op, int node) {
    Step step;
    step.op = op;
    step.node = node;
    return steps(p).emplace_back(step);
  }

  // Work that nobody waits for (weight gradients), put off until messages are on their way.
  void flush_delayed(int p) {
    for (const Step& step : delayed_[at(p)]) steps(p).push_back(step);
    delayed_[at(p)].clear();
  }

  void transfer(int from, int from_buffer, int to, int to_buffer, int node, const Box& box, bool accumulate,
                std::vector<std::pair<int, Step>>& receives) {
    Step& send = emit(from, Op::kSend, node);
    send.a = from_buffer, send.box = box, send.peer = to, send.transfer = ++transfers_;
    Step receive;
    receive.op = Op::kReceive, receive.node = node, receive.a = to_buffer, receive.box = box, receive.peer = from;
    receive.transfer = transfers_, receive.accumulate = accumulate;
    receives.push_back({to, receive});
  }

  // All sends first, then what was put off, then the receives: nobody waits while it has something to give or to do.
  void finish_transfers(std::vector<std::pair<int, Step>>& receives) {
    for (int p = 0; p < plan_.participants; ++p) flush_delayed(p);
    for (auto& [p, step] : receives) steps(p).push_back(step);
    receives.clear();
  }

  // One small message from every participant that has a part to every other: `send`, `meanwhile`, then `receive`.
  void exchange_parts(
      int node, Op send_op, Op receive_op, Op merge_op, const std::function<void()>& meanwhile = [] {}) {
    std::vector<std::pair<int, Step>> receives;
    for (int from = 0; from < plan_.participants; ++from) {
      if (plan_.box(node, from).empty()) continue;
      for (int to = 0; to < plan_.participants; ++to) {
        if (to == from) continue;
        Step& send = emit(from, send_op, node);
        send.peer = to, send.transfer = ++transfers_;
        Step receive;
        receive.op = receive_op, receive.node = node, receive.peer = from, receive.transfer = transfers_;
        receives.push_back({to, receive});
      }
    }
    meanwhile();
    finish_transfers(receives);
    for (int p = 0; p < plan_.participants; ++p) emit(p, merge_op, node);
  }

  // --- forward ---------------------------------------------------------------------------------------------------

  void forward() {
    for (int node = graph_.first_layer(); node < graph_.size(); ++node) {
      const int group = regions_.forward_group[at(node)];
      if (group != regions_.forward_group[at(node - 1)]) forward_fetches(group);
      const auto boundaries = compute_boundaries(node);
      if (!boundaries.empty()) send_to_next_group(node);
      for (int p = 0; p < plan_.participants; ++p) forward_layer(p, node, boundaries.empty() ? std::vector<Box>{} : boundaries[at(p)]);
      const auto send = [&] {
        if (boundaries.empty()) send_to_next_group(node);
      };
      if (!normalized(node)) {
        send();
      } else {
        exchange_parts(node, Op::kSendMoments, Op::kReceiveMoments, Op::kMergeMoments, send);
        for (int p = 0; p < plan_.participants && !is_pooled_raw(node); ++p) normalize(p, node, regions_.at(regions_.computed, node, p));
      }
    }
    deliver();
  }

  // The parts of a convolution's output that others wait for, where the plan computes them first: [participant], disjoint. Empty
  // when there are none.
  std::vector<std::vector<Box>> compute_boundaries(int node) {
    const auto next = at(regions_.forward_group[at(node)] + 1);
    if (!plan_.boundary_first || graph_[node].kind != LayerKind::kConvolutional || next >= regions_.forward_fetches.size()) return {};
    std::vector<std::vector<Box>> boundaries(at(plan_.participants));
    std::vector<geometry::Index> cells(at(plan_.participants));
    for (const Fetch& f : regions_.forward_fetches[next]) {
      if (f.node != node) continue;
      for (const Box& part : geometry::subtract(f.box, boundaries[at(f.from)])) {
        boundaries[at(f.from)].push_back(part);
        cells[at(f.from)] += part.elements();
      }
    }
    if (std::all_of(cells.begin(), cells.end(), [](geometry::Index count) { return count == 0; })) return {};
    for (int p = 0; p < plan_.participants; ++p)
      if (2 * cells[at(p)] > regions_.at(regions_.computed, node, p).elements()) return {};
    for (int p = 0; p < plan_.participants; ++p)
      for (const Box& part : boundaries[at(p)]) convolve(p, node, part);
    return boundaries;
  }

  // What the next group fetches of a tensor leaves as soon as the tensor is there (raw, where it is to be normalised), and is
  // on its way while statistics are exchanged and the tensor is normalised.
  void send_to_next_group(int node) {
    const auto next = at(regions_.forward_group[at(node)] + 1);
    if (next < regions_.forward_fetches.size())
      for (const Fetch& f : regions_.forward_fetches[next])
        if (f.node == node) send_stored(f, sent_early_);
  }

  void send_stored(const Fetch& f, std::vector<std::pair<int, Step>>& receives) {
    transfer(f.from, stored(f.from, f.node), f.to, stored(f.to, f.node), f.node, f.box, false, receives);
  }

  void forward_fetches(int group) {
    std::vector<std::pair<int, Step>> receives;
    const auto& fetches = regions_.forward_fetches[at(group)];
    for (const Fetch& f : fetches)
      if (regions_.forward_group[at(f.node)] + 1 != group || is_input(f.node)) send_stored(f, receives);
    receives.insert(receives.end(), sent_early_.begin(), sent_early_.end());
    sent_early_.clear();
    finish_transfers(receives);
    for (const Fetch& f : fetches)
      if (normalized(f.node)) normalize(f.to, f.node, f.box);
  }

  void normalize(int p, int node, const Box& box) {
    if (box.empty() || !output_is_read(node)) return;
    Step& step = emit(p, Op::kNormalize, node);
    step.a = stored(p, node), step.b = output(p, node), step.box = box;
  }

  // `made`: parts of a convolution's output that are there.
  void forward_layer(int p, int node, const std::vector<Box>& made = {}) {
    const auto& layer = graph_[node];
    const Box& box = regions_.at(regions_.computed, node, p);
    if (box.empty()) return;
    const int out = stored(p, node);
    const auto input = [&](std::size_t i) { return output(p, layer.inputs[i]); };
    switch (layer.kind) {
      case LayerKind::kInput:
        break;
      case LayerKind::kConvolutional: {
        for (const Box& part : geometry::subtract(box, made)) convolve(p, node, part);
        if (const Box& owned = plan_.box(node, p); normalized(node) && !owned.empty() && !in_backward_) {
          Step& step = emit(p, Op::kMoments, node);
          step.a = out, step.box = owned;
        }
        break;
      }
      case LayerKind::kMaxpool: {
        const bool raw = is_pooled_raw(layer.inputs[0]);
        Step& step = emit(p, raw ? Op::kNormalizeMaxpool : Op::kMaxpool, node);
        step.a = raw ? stored(p, layer.inputs[0]) : input(0), step.b = out, step.c = winners(p, node), step.box = box;
        break;
      }
      case LayerKind::kRoute:
        forward_route(p, node, out, box);
        break;
      case LayerKind::kShortcut: {
        Step& step = emit(p, Op::kShortcut, node);
        step.a = input(0), step.b = out, step.c = input(1), step.box = box;
        break;
      }
      case LayerKind::kUpsample:
      case LayerKind::kReorg: {
        Step& step = emit(p, layer.kind == LayerKind::kUpsample ? Op::kUpsample : Op::kReorg, node);
        step.a = input(0), step.b = out, step.box = box;
        break;
      }
    }
  }

  void convolve(int p, int node, const Box& box) {
    const int in = output(p, graph_[node].inputs[0]), out = stored(p, node);
    Step& step = emit(p, in < 0 ? Op::kFill : Op::kConvolution, node);  // nothing but padding is seen: zeros
    if (in < 0)
      step.a = out;
    else
      step.a = in, step.b = out;
    step.box = box;
    if (!graph_[node].batch_normalize) {
      Step& finish = emit(p, Op::kBiasActivate, node);
      finish.a = out, finish.box = box;
    } else if (mode_ == Mode::kTest && !is_pooled_raw(node)) {
      Step& finish = emit(p, Op::kNormalize, node);
      finish.a = finish.b = out, finish.box = box;
    }
  }

  void forward_route(int p, int node, int out, const Box& box) {
    const auto& layer = graph_[node];
    for (std::size_t i = 0; i < layer.inputs.size(); ++i) {
      const Box part = geometry::intersect(box, graph::output_box(graph_, node, static_cast<int>(i), whole(layer.inputs[i])));
      if (part.empty()) continue;
      Step& step = emit(p, Op::kRoute, node);
      step.input = static_cast<int>(i), step.a = output(p, layer.inputs[i]), step.b = out, step.box = part;
    }
  }

  // The outputs that layers after the range read, to the coordinator.
  void deliver() {
    std::vector<std::pair<int, Step>> receives;
    for (int node = graph_.first_layer(); node < graph_.size(); ++node) {
      if (!graph_[node].delivered) continue;
      const int target = buffer(0, node, Slot::kDelivered, whole(node), true);
      for (int p = 0; p < plan_.participants; ++p) {
        const Box& owned = plan_.box(node, p);
        if (owned.empty()) continue;
        if (p == 0) {
          Step& step = emit(p, Op::kCopy, node);
          step.a = output(p, node), step.b = target, step.box = owned;
        } else {
          transfer(p, output(p, node), 0, target, node, owned, false, receives);
        }
      }
    }
    finish_transfers(receives);
  }

  // --- backward --------------------------------------------------------------------------------------------------

  void backward() {
    in_backward_ = true;
    forget_insides();
    // Outputs of the forward pass are made again where weight gradients need them.
    for (int node = graph_.first_layer(); node < graph_.size(); ++node)
      for (int p = 0; p < plan_.participants; ++p)
        if (normalized(node)) retire(p, node, Slot::kActive);
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
    for (int p = 0; p < plan_.participants; ++p) {
      flush_delayed(p);
      for (const Step& step : unsummed_[at(p)]) steps(p).push_back(step);
    }
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
      for (int p = 0; p < plan_.participants && is_inside(node); ++p)
        for (const Slot slot : {Slot::kStored, Slot::kWinners}) retire(p, node, slot);
  }

  // The insides of all forward groups in which layers of this backward group lie, before anybody fetches from them.
  void recompute_for(int backward_group) {
    for (int node = graph_.first_layer(); node < graph_.size(); ++node) {
      const auto group = at(regions_.forward_group[at(node)]);
      if (regions_.backward_group[at(node)] != backward_group || !graph_[node].backward || recomputed_[group]) continue;
      recomputed_[group] = true;
      for (int p = 0; p < plan_.participants; ++p) recompute(p, static_cast<int>(group));
    }
  }

  // Each layer inside the group once more as the forward pass computed it, with the statistics that are known by now.
  void recompute(int p, int group) {
    int last = -1;  // what comes after it need not be computed
    std::vector<int> nodes;
    for (int node = graph_.first_layer(); node < graph_.size(); ++node) {
      if (regions_.forward_group[at(node)] != group) continue;
      nodes.push_back(node);
      if (is_inside(node)) last = node;
    }
    if (last < 0) return;
    flush_delayed(p);
    std::map<int, std::vector<Box>> made;  // outputs of batch-normalised layers, by node
    for (const int node : nodes) {
      if (node > last) break;
      for (const int input : graph_[node].inputs)
        if (is_inside(node) && normalized(input) && !is_pooled_raw(input)) read_again(p, node, input, made);
      if (is_inside(node)) forward_layer(p, node);
    }
    // Weight gradients make outputs again when their turn comes, so that these take no memory until then.
    for (const auto& [node, boxes] : made) retire(p, node, Slot::kActive);
  }

  // The output of a batch-normalised layer as `node` reads it.
  void read_again(int p, int node, int input, std::map<int, std::vector<Box>>& made) {
    const Box& computed = regions_.at(regions_.computed, node, p);
    if (computed.empty()) return;
    if (!made.contains(input)) retire(p, input, Slot::kActive);
    std::vector<Box>& boxes = made[input];
    for (std::size_t i = 0; i < graph_[node].inputs.size(); ++i) {
      if (graph_[node].inputs[i] != input) continue;
      for (const Box& missing : geometry::subtract(graph::input_box(graph_, node, static_cast<int>(i), computed), boxes)) {
        normalize(p, input, missing);
        boxes.push_back(missing);
      }
    }
  }

  // --- back-propagation of one layer -----------------------------------------------------------------------------

  // Deltas from outside that join parts computed inside: to the owners, before those parts.
  void external_deltas() {
    std::vector<std::pair<int, Step>> receives;
    for (int node = graph_.first_layer(); node < graph_.size(); ++node) {
      const auto& sources = regions_.sources[at(node)];
      if (!graph_[node].backward || !sources.external || only_external(sources)) continue;
      for (int p = 0; p < plan_.participants; ++p) hand_external(p, node, plan_.box(node, p), receives);
    }
    finish_transfers(receives);
  }

  void hand_external(int p, int node, const Box& box, std::vector<std::pair<int, Step>>& receives) {
    if (box.empty()) return;
    const int source = buffer(0, node, Slot::kExternalDelta, whole(node), true);
    if (p == 0) {
      Step& step = emit(p, Op::kCopy, node);
      step.a = source, step.b = delta(p, node), step.box = box;
    } else {
      transfer(0, source, p, delta(p, node), node, box, false, receives);
    }
    has_delta_[at(node)][at(p)] = true;
  }

  void backward_fetches(int group) {
    std::vector<std::pair<int, Step>> receives;
    for (const Fetch& f : regions_.stored_fetches[at(group)])
      transfer(f.from, stored(f.from, f.node), f.to, stored(f.to, f.node), f.node, f.box, false, receives);
    for (const Fetch& f : regions_.winner_fetches[at(group)])
      transfer(f.from, winners(f.from, f.node), f.to, winners(f.to, f.node), f.node, f.box, false, receives);
    for (int node = graph_.first_layer(); node < graph_.size(); ++node)
      if (graph_[node].backward && regions_.backward_group[at(node)] == group && only_external(regions_.sources[at(node)]))
        for (int p = 0; p < plan_.participants; ++p) hand_external(p, node, regions_.at(regions_.delta, node, p), receives);
    for (const Fetch& f : regions_.delta_fetches[at(group)]) {
      if (only_external(regions_.sources[at(f.node)])) continue;
      transfer(f.from, delta(f.from, f.node), f.to, delta(f.to, f.node), f.node, f.box, false, receives);
      has_delta_[at(f.node)][at(f.to)] = true;
    }
    finish_transfers(receives);
  }

  void backward_layer(int node) {
    const auto& layer = graph_[node];
    for (int p = 0; p < plan_.participants; ++p) {
      if (!has_delta_[at(node)][at(p)] && !regions_.at(regions_.delta, node, p).empty()) {
        Step& step = emit(p, Op::kFill, node);  // nobody's output depends on this layer
        step.a = delta(p, node), step.box = regions_.at(regions_.delta, node, p);
      }
      undo_activation(p, node);
    }
    if (layer.batch_normalize) {
      exchange_parts(node, Op::kSendSums, Op::kReceiveSums, Op::kMergeSums);
      for (int p = 0; p < plan_.participants; ++p) {
        if (regions_.at(regions_.delta, node, p).empty()) continue;
        Step& step = emit(p, Op::kNormDelta, node);
        step.a = delta(p, node), step.b = stored(p, node), step.box = regions_.at(regions_.delta, node, p);
      }
    }
    for (std::size_t i = 0; i < layer.inputs.size(); ++i) backward_input(node, static_cast<int>(i));
    if (!layer.trainable()) return;
    for (int p = 0; p < plan_.participants; ++p) weight_gradient(p, node);
    sum_gradient(node);
  }

  // This participant's gradient of a layer's weights, zeroed by a first step in `before`; -1: kept by the executor.
  int gradient(int p, int node, std::vector<Step>& before) {
    if (!plan_.single_pass || p == 0 || plan_.box(node, p).empty()) return -1;
    const bool known = slots_[at(p)].contains({node, Slot::kGradient});
    const Box box{{0, 1}, {0, 1}, {0, 1}, window(p, node)};
    const int number = buffer(p, node, Slot::kGradient, box);
    if (known) return number;
    Step& step = before.emplace_back();
    step.op = Op::kFill, step.node = node, step.a = number, step.box = box;
    return number;
  }

  void undo_activation(int p, int node) {
    const auto& layer = graph_[node];
    const Box& box = regions_.at(regions_.delta, node, p);
    if (box.empty() || (layer.kind != LayerKind::kConvolutional && layer.kind != LayerKind::kShortcut)) return;
    if (layer.kind == LayerKind::kShortcut && layer.activation == "linear") return;
    const int sums = layer.trainable() && !layer.batch_normalize ? gradient(p, node, steps(p)) : -1;
    Step& step = emit(p, layer.batch_normalize ? Op::kNormSums : Op::kActivationDelta, node);
    step.a = delta(p, node), step.c = sums, step.box = box, step.owned = plan_.box(node, p);
    step.b = backward_reads_stored(layer) ? stored(p, node) : -1;
  }

  void backward_input(int node, int input) {
    const int source = graph_[node].inputs[at(input)];
    const auto& sources = regions_.sources[at(source)].uses;
    const bool counts = std::any_of(sources.begin(), sources.end(), [&](const Use& u) { return u.layer == node && u.input == input; });
    if (!counts || !graph_[source].backward) return;
    for (int p = 0; p < plan_.participants; ++p) {
      const Box box = contribution_box(regions_, plan_, {node, input}, source, p);
      if (box.empty()) continue;
      const int from = delta(p, node);
      Step step;
      step.op = backward_op(graph_[node].kind);
      step.node = node, step.input = input, step.a = from, step.b = delta(p, source), step.box = box;
      step.c = graph_[node].kind == LayerKind::kMaxpool ? winners(p, node) : -1;
      step.accumulate = has_delta_[at(source)][at(p)];
      if (from < 0) step.op = Op::kFill, step.a = step.b, step.b = step.c = -1;  // no output cell depends on this box
      if (from >= 0 || !step.accumulate) steps(p).push_back(step);
      has_delta_[at(source)][at(p)] = true;
    }
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

  void weight_gradient(int p, int node) {
    const Box& owned = plan_.box(node, p);
    if (owned.empty()) return;
    const int source = graph_[node].inputs[0];
    Step step;
    step.op = Op::kConvolutionWeights, step.node = node, step.b = delta(p, node), step.c = gradient(p, node, delayed_[at(p)]),
    step.box = owned;
    step.a = normalized(source) ? remake_output(p, source) : stored(p, source);
    if (step.a < 0) return;  // only padding is seen
    delayed_[at(p)].push_back(step);
  }

  // The parts of a layer's gradient travel as soon as they are complete and are waited for one round later, so that lower
  // layers' back-propagation goes on meanwhile.
  void sum_gradient(int node) {
    const auto& chunks = chunks_[node];
    for (std::size_t begin = 0, end = 0; begin < chunks.size(); begin = end) {
      while (end < chunks.size() && chunks[end].round == chunks[begin].round) ++end;
      std::vector<std::vector<Step>> later(at(plan_.participants));
      for (std::size_t i = begin; i < end; ++i) sum_chunk(chunks[i], later);
      for (int p = 0; p < plan_.participants; ++p) {
        auto& before = unsummed_[at(p)];
        delayed_[at(p)].insert(delayed_[at(p)].end(), before.begin(), before.end());
        before = std::move(later[at(p)]);
      }
    }
    for (int p = 1; p < plan_.participants; ++p)
      if (!plan_.box(node, p).empty())
        delayed_[at(p)].push_back(gradient_step(Op::kDropGradient, {node, {0, summed_elements(graph_, node)}, p}, p, -1));
  }

  void sum_chunk(const GradientChunk& chunk, std::vector<std::vector<Step>>& later) {
    const int owner = chunk.owner;
    delayed_[at(owner)].push_back(gradient_step(Op::kOwnGradient, chunk, owner, -1));
    delayed_[at(owner)].back().accumulate = gives(owner, chunk);
    const auto message = [&](Op send, Op receive, int from, int to, std::vector<Step>& sends) {
      ++transfers_;
      sends.push_back(gradient_step(send, chunk, from, to));
      later[at(to)].push_back(gradient_step(receive, chunk, to, from));
      sends.back().transfer = later[at(to)].back().transfer = transfers_;
    };
    for (int p = 0; p < plan_.participants; ++p)
      if (p != owner && gives(p, chunk)) message(Op::kSendGradient, Op::kReceiveGradient, p, owner, delayed_[at(p)]);
    if (owner != 0) message(Op::kSendSummed, Op::kReceiveSummed, owner, 0, later[at(owner)]);
  }

  Step gradient_step(Op op, const GradientChunk& chunk, int p, int peer) const {
    Step step;
    step.op = op, step.node = chunk.node, step.peer = peer;
    const auto own = slots_[at(p)].find({chunk.node, Slot::kGradient});
    const bool reads_own = op == Op::kSendGradient || op == Op::kOwnGradient;
    step.a = reads_own && own != slots_[at(p)].end() ? own->second : -1;
    step.box = {{0, 1}, {0, 1}, {0, 1}, chunk.elements};
    return step;
  }

  // The output of a batch-normalised layer again, over all that this participant's weight gradients read.
  int remake_output(int p, int node) {
    const auto found = slots_[at(p)].find({node, Slot::kActive});
    if (found != slots_[at(p)].end()) return found->second;
    Box box;
    for (const Use& use : uses_[at(node)])
      if (graph_[use.layer].trainable() && graph_[use.layer].backward)
        box = geometry::hull(box, graph::input_box(graph_, use.layer, use.input, plan_.box(use.layer, p)));
    if (box.empty()) return -1;
    Step step;
    step.op = Op::kNormalize, step.node = node, step.a = stored(p, node), step.box = box;
    step.b = buffer(p, node, Slot::kActive, box);
    delayed_[at(p)].push_back(step);
    return step.b;
  }

  // The deltas of the range's inputs, to the coordinator.
  void input_deltas() {
    std::vector<std::pair<int, Step>> receives;
    for (int node = 0; node < graph_.first_layer(); ++node) {
      if (!graph_[node].backward) continue;
      const int target = buffer(0, node, Slot::kInputDelta, whole(node), true);
      const bool accumulate = !regions_.sources[at(node)].overwrites_external;
      for (int p = 0; p < plan_.participants; ++p) {
        const Box& owned = plan_.box(node, p);
        if (owned.empty() || !has_delta_[at(node)][at(p)]) continue;
        if (p == 0) {
          Step& step = emit(p, Op::kCopy, node);
          step.a = delta(p, node), step.b = target, step.box = owned, step.accumulate = accumulate;
        } else {
          transfer(p, delta(p, node), 0, target, node, owned, accumulate, receives);
        }
      }
    }
    finish_transfers(receives);
  }

  const Graph& graph_;
  const Plan& plan_;
  const Mode mode_;
  const Regions regions_;
  const std::vector<std::vector<Use>> uses_;
  ProgramSet set_;
  std::vector<std::map<std::pair<int, Slot>, int>> slots_;  // [participant]
  std::vector<std::pair<int, Step>> sent_early_;            // receives of the next forward group
  std::vector<bool> recomputed_;                            // [forward group]
  std::vector<std::vector<Step>> delayed_;                  // [participant]
  std::map<int, std::vector<GradientChunk>> chunks_;        // by node
  std::vector<std::vector<Step>> unsummed_;                 // [participant]: what waits for the last round of chunks
  std::vector<std::vector<bool>> has_delta_;                // [node][participant]: something was written to the delta
  std::uint32_t transfers_ = 0;
  bool in_backward_ = false;
};

}  // namespace

ProgramSet compile(const Graph& graph, const Plan& plan, Mode mode) { return Compiler(graph, plan, mode).compile(); }

}  // namespace tessera::program
