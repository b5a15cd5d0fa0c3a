#include "exec/shard.hpp"

#include <algorithm>

#include "base/check.hpp"
#include "kernels/elementwise.hpp"
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

// The values of a chunk that one participant sends to another: its `channels` of each filter.
class Fresh {
 public:
  Fresh(const graph::Graph& graph, const Parameters& parameters, const GradientChunk& chunk, Range channels, std::size_t number)
      : values_(values(parameters, chunk)), whole_(channels.size() == graph.input_channels(chunk.node)) {
    piece_.transfer = static_cast<std::uint32_t>(number);
    piece_.box = {{0, 1}, {0, 1}, {0, 1}, chunk.elements};
    if (whole_) return;
    const Index taps = graph[chunk.node].kernel * graph[chunk.node].kernel, filter = graph.input_channels(chunk.node) * taps;
    piece_.box = {{chunk.elements.begin / filter, chunk.elements.end / filter}, channels, {0, 1}, {0, taps}};
    view_ = {values_.weights.data(), {piece_.box.n, {0, graph.input_channels(chunk.node)}, {0, 1}, {0, taps}}};
  }

  base::Status send(const std::vector<int>& takers, Mailbox& mailbox, base::ThreadPool& pool) const {
    transport::Frame frame = mailbox.allocate(static_cast<std::size_t>(piece_.box.elements()) * sizeof(float));
    if (whole_) {
      copy(std::as_bytes(values_.weights), frame.bytes());
      copy(std::as_bytes(values_.biases), frame.bytes().subspan(values_.weights.size_bytes()));
    } else {
      kernels::pack(view_, piece_.box, frame.bytes(), pool);
    }
    auto frames = transport::Frame::share(std::move(frame), takers.size());
    for (std::size_t i = 0; i < takers.size(); ++i)
      TESSERA_TRY(mailbox.send(takers[i], transport::Lane::kBulk, piece_, std::move(frames[i])));
    return {};
  }

  base::Status receive(int from, Mailbox& mailbox, base::ThreadPool& pool) const {
    TESSERA_ASSIGN(const transport::Frame frame, mailbox.receive(from, piece_));
    const std::span<const std::byte> bytes = frame.bytes();
    if (whole_) {
      copy(bytes.first(values_.weights.size_bytes()), std::as_writable_bytes(values_.weights));
      copy(bytes.subspan(values_.weights.size_bytes()), std::as_writable_bytes(values_.biases));
    } else {
      kernels::unpack(bytes, view_, piece_.box, pool);
    }
    return {};
  }

 private:
  const Spans values_;
  const bool whole_;
  Piece piece_;
  geometry::FloatView view_;
};

}  // namespace

void Shard::assign(std::shared_ptr<const program::Sharding> sharding, int self) {
  const bool same = sharding_ && self == self_ && sharding->chunks == sharding_->chunks;
  sharding_ = std::move(sharding);
  if (same) return;
  self_ = self;
  places_.clear(), offsets_.clear();
  std::size_t total = 0;
  for (const GradientChunk& chunk : sharding_->chunks) {
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
    const auto history = std::span<float>(momentum_).subspan(offset, size(chunk)),
               sum = std::span<float>(sums_).subspan(offset, size(chunk));
    const std::size_t weights = value.weights.size();
    if (weights > 0) kernels::update_weights(update, value.weights, history.first(weights), sum.first(weights), pool);
    if (!value.biases.empty()) kernels::update_biases(update, value.biases, history.subspan(weights), sum.subspan(weights), pool);
  }
  std::fill(sums_.begin(), sums_.end(), 0.0f);
}

std::vector<float> momentum_of(const Parameters& parameters, const program::Sharding& sharding, int owner) {
  std::vector<float> momentum;
  for (const GradientChunk& chunk : sharding.chunks) {
    if (chunk.owner != owner) continue;
    const LayerParameters& p = parameters.layers[static_cast<std::size_t>(chunk.node)];
    const Spans history = spans(p.weight_updates, p.bias_updates, chunk.elements);
    momentum.insert(momentum.end(), history.weights.begin(), history.weights.end());
    momentum.insert(momentum.end(), history.biases.begin(), history.biases.end());
  }
  return momentum;
}

base::Status exchange_updates(const graph::Graph& graph, const Parameters& parameters, const program::Sharding& sharding, int self,
                              int participants, Mailbox& mailbox, base::ThreadPool& pool) {
  const auto& chunks = sharding.chunks;
  const auto channels = [&](std::size_t i, int taker) { return program::fresh_channels(graph, sharding, chunks[i], taker); };
  const auto take_round = [&](std::size_t begin, std::size_t end) -> base::Status {
    for (std::size_t i = begin; i < end && self != 0; ++i)
      if (const Range some = channels(i, self); chunks[i].owner != self && !some.empty())
        TESSERA_TRY(Fresh(graph, parameters, chunks[i], some, i).receive(chunks[i].owner, mailbox, pool));
    return {};
  };
  const auto give = [&](std::size_t i) -> base::Status {
    std::map<std::pair<Index, Index>, std::vector<int>> takers;  // by channels
    for (int to = 1; to < participants && chunks[i].owner == self; ++to)
      if (const Range some = channels(i, to); to != self && !some.empty()) takers[{some.begin, some.end}].push_back(to);
    for (const auto& [some, those] : takers)
      TESSERA_TRY(Fresh(graph, parameters, chunks[i], {some.first, some.second}, i).send(those, mailbox, pool));
    return {};
  };
  // A round leaves before the one before it is waited for, so that there is always something on the way.
  std::size_t before = 0, begin = 0;
  while (begin < chunks.size()) {
    std::size_t end = begin;
    for (; end < chunks.size() && chunks[end].round == chunks[begin].round; ++end) TESSERA_TRY(give(end));
    TESSERA_TRY(take_round(before, begin));
    before = begin, begin = end;
  }
  return take_round(before, begin);
}

}  // namespace tessera::exec
