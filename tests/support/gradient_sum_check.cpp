#include "tests/support/gradient_sum_check.hpp"

#include <fmt/format.h>

#include <stdexcept>

#include "tests/support/brute_force.hpp"

namespace tessera::testing {

using program::Op;
using program::Step;

namespace {

void require(bool condition, const std::string& text) {
  if (!condition) throw std::runtime_error(text);
}

}  // namespace

GradientSumCheck::GradientSumCheck(const graph::Graph& graph, const plan::Plan& plan, const program::Sharding& sharding)
    : graph_(graph), plan_(plan) {
  for (const auto& chunk : sharding.chunks) chunks_[{chunk.node, chunk.elements.begin}] = chunk;
}

bool GradientSumCheck::gives(int participant, const program::GradientChunk& chunk) const {
  const auto& shape = graph_[chunk.node].out;
  for (int p = 0; p < plan_.participants; ++p) {
    const geometry::Box& box = plan_.box(chunk.node, p);
    const bool along_channels = box.n.size() == plan_.batch && box.y.size() == shape.y && box.x.size() == shape.x;
    if (!box.empty() && !along_channels) return computes(participant, chunk.node);
  }
  const geometry::Box& box = plan_.box(chunk.node, participant);
  const auto weights = static_cast<geometry::Index>(graph_.weights(chunk.node)), filter = weights / shape.c;
  const geometry::Range own = {box.c.begin * filter, box.c.end * filter}, biases = {weights + box.c.begin, weights + box.c.end};
  return !geometry::intersect(own, chunk.elements).empty() || !geometry::intersect(biases, chunk.elements).empty();
}

GradientSumCheck::Parts GradientSumCheck::wanted(const program::GradientChunk& chunk) const {
  Parts parts;
  for (int p = 0; p < plan_.participants; ++p)
    if (gives(p, chunk)) parts.insert(p);
  return parts;
}

const program::GradientChunk& GradientSumCheck::chunk(const Step& step) const {
  const auto found = chunks_.find({step.node, step.box.x.begin});
  require(found != chunks_.end() && found->second.elements == step.box.x, "these elements are no chunk");
  return found->second;
}

void GradientSumCheck::send(int participant, const Step& step, const Parts& parts) {
  const Message message{step.op, participant, step.peer, step.node, step.box.x, parts};
  require(step.peer != participant && messages_.insert({step.transfer, message}).second, "a transfer number twice, or to itself");
}

bool GradientSumCheck::step(int p, const Step& s) {
  if (s.op == Op::kDropGradient) {
    require(p != 0 && computes(p, s.node) && dropped_.insert({p, s.node}).second, "nothing to drop");
    for (const auto& [key, c] : chunks_)
      require(c.node != s.node || !gives(p, c) || given_.contains({p, s.node, c.elements.begin}), "dropped before all of it was given");
    return true;
  }
  const auto& c = chunk(s);
  const std::pair key{s.node, s.box.x.begin};
  if (s.op == Op::kSendGradient || s.op == Op::kOwnGradient) {
    require(!dropped_.contains({p, s.node}), "dropped already");
    const bool has = gives(p, c);
    // Outputs that see nothing but padding add nothing to the weights' gradient.
    const bool sees = has && !brute_input_box(graph_, s.node, 0, plan_.box(s.node, p)).empty();
    require(!sees || computed_.contains({p, s.node}), "before it is computed");
    require(given_.insert({p, s.node, s.box.x.begin}).second, "given twice");
    if (s.op == Op::kSendGradient) {
      require(has && s.peer == c.owner, "not its own to give, or not to the owner");
      send(p, s, {p});
    } else {
      require(p == c.owner && s.accumulate == has && !sums_.contains(key), "begins a sum");
      sums_[key] = has ? Parts{p} : Parts{};
    }
    return true;
  }
  if (s.op == Op::kSendSummed) {
    require(p == c.owner && s.peer == 0 && sums_.contains(key) && sums_.at(key) == wanted(c), "the sum is not complete");
    send(p, s, sums_.at(key));
    return true;
  }
  const auto found = messages_.find(s.transfer);
  if (found == messages_.end()) return false;
  const Message message = found->second;
  messages_.erase(found);
  const Op sent = s.op == Op::kReceiveGradient ? Op::kSendGradient : Op::kSendSummed;
  require(message.op == sent && message.from == s.peer && message.to == p && message.node == s.node && message.elements == s.box.x,
          "another message");
  if (s.op == Op::kReceiveGradient) {
    require(p == c.owner && sums_.contains(key), "adds to no sum");
    for (const int part : message.parts) require(sums_[key].insert(part).second, "adds a part twice");
  } else {
    require(p == 0 && c.owner != 0 && gathered_.insert({key, message.parts}).second, "gathers a sum twice");
    // The coordinator's own part lies in the same place.
    require(!gives(0, c) || given_.contains({0, s.node, s.box.x.begin}), "overwrites a part that was not given yet");
  }
  return true;
}

void GradientSumCheck::finish() const {
  require(messages_.empty(), "gradients that nobody takes");
  for (const auto& [key, c] : chunks_) {
    if (!graph_[c.node].backward) continue;
    const auto& where = c.owner == 0 ? sums_ : gathered_;
    const auto found = where.find(key);
    require(found != where.end() && found->second == wanted(c),
            fmt::format("the sum of node {} from element {}", c.node, c.elements.begin));
    for (int p = 1; p < plan_.participants; ++p)
      require(dropped_.contains({p, c.node}) == computes(p, c.node),
              fmt::format("participant {} keeps its gradient of node {}", p, c.node));
  }
}

}  // namespace tessera::testing
