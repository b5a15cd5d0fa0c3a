// A participant's share of the optimiser: the chunks of the gradient that it sums, the momentum of their weights, and the
// update that it makes for everybody (program/gradient_chunks.hpp). The coordinator keeps all momentum in Darknet's own
// arrays and sums in its Gradients; its shard holds no memory.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <vector>

#include "exec/gradients.hpp"
#include "exec/mailbox.hpp"
#include "program/gradient_chunks.hpp"

namespace tessera::exec {

class Shard {
 public:
  // The chunks of `self`; sums and momentum are zero afterwards. Nothing happens when it has just those already.
  void assign(std::shared_ptr<const program::Sharding> sharding, int self);

  std::span<float> sum(int node, geometry::Range elements);
  void clear_sums() { sums_.clear(); }
  // Of all its chunks one after the other, as they are sent to it.
  std::span<float> momentum() { return momentum_; }
  std::size_t bytes() const { return (sums_.capacity() + momentum_.size()) * sizeof(float); }

  // One optimiser step with the sums on this participant's chunks.
  void apply(const graph::Graph& graph, const Parameters& parameters, const OptimizerStep& step, base::ThreadPool& pool);

 private:
  struct Place {
    program::GradientChunk chunk;
    std::size_t offset;
  };

  int self_ = 0;
  std::shared_ptr<const program::Sharding> sharding_;
  std::vector<Place> places_;
  std::map<std::pair<int, geometry::Index>, std::size_t> offsets_;  // by node and first element
  std::vector<float> sums_, momentum_;
};

// The momentum of the chunks of `owner` out of the coordinator's arrays, in Shard::momentum()'s order.
std::vector<float> momentum_of(const Parameters& parameters, const program::Sharding& sharding, int owner);

// After every owner has made its update: sends the new values of this participant's chunks to the other workers that read
// them and takes theirs. The coordinator sends only, since it updates everything itself.
[[nodiscard]] base::Status exchange_updates(const graph::Graph& graph, const Parameters& parameters, const program::Sharding& sharding,
                                            int self, int participants, Mailbox& mailbox, base::ThreadPool& pool);

}  // namespace tessera::exec
