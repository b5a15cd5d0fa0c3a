#include "exec/shard.hpp"

#include <algorithm>

#include "base/check.hpp"
#include "kernels/update.hpp"

namespace tessera::exec {

using geometry::Index;
using geometry::Range;
using program::GradientChunk;

namespace {

// A chunk's elements in a layer's arrays: weights first, then biases.
struct Spans {
  std::span<float> weights, biases;
};

std::span<float> overlap(std::span<float> array, Index first, Range elements) {
  const Index begin = std::max<Index>(0, elements.begin - first), end = std::min(static_cast<Index>(array.size()), elements.end - first);
  return begin < end ? array.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin)) : std::span<float>();
}

Spans spans(std::span<float> weights, std::span<float> biases, Range elements) {
  return {overlap(weights, 0, elements), overlap(biases, static_cast<Index>(weights.size()), elements)};
}

Spans values(const Parameters& parameters, const GradientChunk& chunk) {
  const LayerParameters& p = parameters.layers[static_cast<std::size_t>(chunk.node)];
  return spans(p.weights, p.biases, chunk.elements);
}

void copy(std::span<const std::byte> from, std::span<std::byte> to) { std::copy(from.begin(), from.end(), to.begin()); }

std::size_t size(const GradientChunk& chunk) { return static_cast<std::size_t>(chunk.elements.size()); }

Piece piece(const GradientChunk& chunk, std::size_t number) {
  return {static_cast<std::uint32_t>(number), wire::ElementType::kFloat32, {{0, 1}, {0, 1}, {0, 1}, chunk.elements}};
}

base::Status send_values(const Spans& from, const GradientChunk& chunk, std::size_t number, int to, Mailbox& mailbox) {
  transport::Frame frame = mailbox.allocate(size(chunk) * sizeof(float));
  copy(std::as_bytes(from.weights), frame.bytes());
  copy(std::as_bytes(from.biases), frame.bytes().subspan(from.weights.size_bytes()));
  return mailbox.send(to, transport::Lane::kBulk, piece(chunk, number), std::move(frame));
}

base::Status receive_values(const Spans& to, const GradientChunk& chunk, std::size_t number, Mailbox& mailbox) {
  TESSERA_ASSIGN(const transport::Frame frame, mailbox.receive(chunk.owner, piece(chunk, number)));
  const std::span<const std::byte> bytes = frame.bytes();
  copy(bytes.first(to.weights.size_bytes()), std::as_writable_bytes(to.weights));
  copy(bytes.subspan(to.weights.size_bytes()), std::as_writable_bytes(to.biases));
  return {};
}

}  // namespace

void Shard::assign(const graph::Graph& graph, int self, int participants) {
  if (participants == participants_ && self == self_) return;
  self_ = self, participants_ = participants;
  places_.clear(), offsets_.clear();
  std::size_t total = 0;
  for (const GradientChunk& chunk : program::gradient_chunks(graph, participants)) {
    if (chunk.owner != self || self == 0) continue;
    places_.push_back({chunk, total});
    offsets_[{chunk.node, chunk.elements.begin}] = total;
    total += size(chunk);
  }
  sums_ = {};
  momentum_.assign(total, 0.0f);
}

std::span<float> Shard::sum(int node, Range elements) {
  const auto found = offsets_.find({node, elements.begin});
  TESSERA_CHECK(found != offsets_.end(), "elements {} of node {} are not this participant's", elements.begin, node);
  sums_.resize(momentum_.size());
  return std::span<float>(sums_).subspan(found->second, static_cast<std::size_t>(elements.size()));
}

void Shard::apply(const graph::Graph& graph, const Parameters& parameters, const OptimizerStep& step, base::ThreadPool& pool) {
  sums_.resize(momentum_.size());  // layers that back-propagation does not reach have a gradient of zero
  for (const auto& [chunk, offset] : places_) {
    const auto update = update_parameters(graph, chunk.node, step);
    const Spans value = values(parameters, chunk);
    const auto history = std::span<float>(momentum_).subspan(offset, size(chunk)), sum = std::span<float>(sums_).subspan(offset, size(chunk));
    const std::size_t weights = value.weights.size();
    if (weights > 0) kernels::update_weights(update, value.weights, history.first(weights), sum.first(weights), pool);
    if (!value.biases.empty()) kernels::update_biases(update, value.biases, history.subspan(weights), sum.subspan(weights), pool);
  }
  std::fill(sums_.begin(), sums_.end(), 0.0f);
}

std::vector<float> momentum_of(const graph::Graph& graph, const Parameters& parameters, int owner, int participants) {
  std::vector<float> momentum;
  for (const GradientChunk& chunk : program::gradient_chunks(graph, participants)) {
    if (chunk.owner != owner) continue;
    const LayerParameters& p = parameters.layers[static_cast<std::size_t>(chunk.node)];
    const Spans history = spans(p.weight_updates, p.bias_updates, chunk.elements);
    momentum.insert(momentum.end(), history.weights.begin(), history.weights.end());
    momentum.insert(momentum.end(), history.biases.begin(), history.biases.end());
  }
  return momentum;
}

base::Status exchange_updates(const graph::Graph& graph, const Parameters& parameters, int self, int participants, Mailbox& mailbox) {
  const auto chunks = program::gradient_chunks(graph, participants);
  const auto take_round = [&](std::size_t begin, std::size_t end) -> base::Status {
    for (std::size_t i = begin; i < end && self != 0; ++i)
      if (chunks[i].owner != self) TESSERA_TRY(receive_values(values(parameters, chunks[i]), chunks[i], i, mailbox));
    return {};
  };
  // A round leaves before the one before it is waited for, so that there is always something on the way.
  std::size_t before = 0, begin = 0;
  while (begin < chunks.size()) {
    std::size_t end = begin;
    for (; end < chunks.size() && chunks[end].round == chunks[begin].round; ++end)
      for (int to = 1; to < participants && chunks[end].owner == self; ++to)
        if (to != self) TESSERA_TRY(send_values(values(parameters, chunks[end]), chunks[end], end, to, mailbox));
    TESSERA_TRY(take_round(before, begin));
    before = begin, begin = end;
  }
  return take_round(before, begin);
}

}  // namespace tessera::exec
