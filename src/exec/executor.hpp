// Runs one participant's programs: kernels on the arena, pieces through the mailbox.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <vector>

#include "base/result.hpp"
#include "base/thread_pool.hpp"
#include "exec/gradients.hpp"
#include "exec/mailbox.hpp"
#include "exec/parameters.hpp"
#include "exec/shard.hpp"
#include "kernels/batch_norm.hpp"
#include "kernels/convolution.hpp"
#include "program/program.hpp"

namespace tessera::exec {

// The convolutions of a graph, in order.
std::vector<kernels::ConvolutionShape> convolution_shapes(const graph::Graph& graph);

struct ExecutorUsage {
  double busy_seconds = 0;  // in kernels
};

// One thread. Holds no tensors between programs, only the statistics of the last forward pass.
class Executor {
 public:
  // `parameters` and `pool` must outlive the executor. `inference`: only programs for tests will be run; there are no
  // gradients, and weights in the backend's own layout are kept.
  Executor(const graph::Graph& graph, const Parameters& parameters, kernels::Backend backend, base::ThreadPool& pool,
           bool inference = false);

  // Before the first load().
  void set_backend(kernels::Backend backend) { backend_ = backend; }

  // Makes `program` (of participant `self`, out of a set of `participants`) the current one and reserves its memory:
  // kOutOfMemory when there is not enough, kInvalidArgument when a layer cannot be computed. The graph may have other
  // sizes than before, but the same layers.
  [[nodiscard]] base::Status load(const graph::Graph& graph, std::shared_ptr<const program::Program> program, program::Mode mode, int self,
                                  int participants, geometry::Index batch);

  // Gives all memory of programs back. load() comes before the next pass.
  void release();

  // Memory of the caller behind an external buffer of the current program (coordinator only), whole tensor.
  void bind(int node, program::Slot slot, float* data);

  // Runs one pass of the current program. Transfers go through `mailbox`, whose run has been started. After an error
  // the tensors are lost; statistics and gradients are put right with restore().
  [[nodiscard]] base::Status forward(Mailbox& mailbox, bool inputs_are_sent = false);
  // Coordinator: the pieces of the range's inputs that the forward pass `ahead` runs later sends, from what is bound now.
  [[nodiscard]] base::Status send_inputs(Mailbox& mailbox, std::uint64_t ahead);
  // `last`: of a batch, then the gradients are summed as well.
  [[nodiscard]] base::Status backward(Mailbox& mailbox, bool last);

  Gradients& gradients() { return gradients_; }
  Shard& shard() { return shard_; }
  const graph::Graph& graph() const { return graph_; }

  // One optimiser step: the coordinator (or who computes alone) updates all weights, the others those of their chunks.
  void update(const OptimizerStep& step);
  // After an update, on all participants at once: makes all replicas equal again. After an error the weights are a mixture.
  [[nodiscard]] base::Status share_update(Mailbox& mailbox);

  // The weights were changed from outside.
  void weights_changed();

  // An iteration is a transaction: remember() at its start, restore() puts rolling averages back and clears gradients.
  void remember();
  void restore();

  // Planned memory of the current program: arena and kernel scratch.
  std::size_t planned_bytes() const { return arena_bytes_ + scratch_.bytes(); }
  const ExecutorUsage& usage() const { return usage_; }

 private:
  struct Norm {  // of one batch-normalised layer
    std::vector<float> mean, variance;
    std::vector<kernels::ChannelMoments> moments;  // [participant][channel]
    std::vector<kernels::ChannelSums> sums;        // [participant][channel]
    std::vector<kernels::ChannelSums> total;
  };
  struct Free {
    void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t{program::kBufferAlignment}); }
  };

  base::Status load_convolutions(const program::Program& program, const graph::Graph& graph);
  struct Pass {
    bool inputs_are_sent = false, sums_gradients = false;
  };
  base::Status run(const std::vector<program::Step>& steps, Mailbox& mailbox, Pass pass);
  base::Status transfer(const program::Step& step, Mailbox& mailbox);
  std::span<const program::Step> same_sends(const std::vector<program::Step>& steps, std::size_t first) const;
  base::Status sum_gradient(const program::Step& step, Mailbox& mailbox);
  void compute(const program::Step& step);
  void forward_step(const program::Step& step);
  void backward_step(const program::Step& step);

  geometry::FloatView view(int buffer) const;
  geometry::View<std::uint8_t> winners(int buffer) const;
  bool sends_input(const program::Step& step) const;
  Piece piece(const program::Step& step) const;
  // The box of the first step, to the peers of all: steps of one buffer and box.
  base::Status send(std::span<const program::Step> steps, Mailbox& mailbox, std::uint64_t ahead = 0);
  base::Status receive(const program::Step& step, Mailbox& mailbox);
  // This participant's part of a layer's statistics as a message, and a peer's into its place.
  base::Status send_part(const program::Step& step, Mailbox& mailbox, std::span<const std::byte> part, geometry::Index fields);
  base::Status receive_part(const program::Step& step, Mailbox& mailbox, std::span<std::byte> part, geometry::Index fields);

  const LayerParameters& parameters(int node) const { return parameters_.layers[static_cast<std::size_t>(node)]; }
  const float* filters(int node, geometry::Index first) const;  // weights from this filter on
  kernels::NormParameters norm_parameters(int node) const;
  kernels::Convolution& convolution(int node) { return *convolutions_[static_cast<std::size_t>(node)]; }
  Norm& norm(int node) { return norms_[static_cast<std::size_t>(node)]; }
  template <typename T>
  std::span<T> part(std::vector<T>& all, int participant, int node) const;

  graph::Graph graph_;
  const Parameters& parameters_;
  kernels::Backend backend_;
  const bool inference_;
  base::ThreadPool& pool_;
  kernels::Scratch scratch_;
  Gradients gradients_;
  Shard shard_;

  std::shared_ptr<const program::Program> program_;
  program::Mode mode_ = program::Mode::kTrain;
  int self_ = 0;
  int participants_ = 1;
  geometry::Index batch_ = 1;
  std::unique_ptr<std::byte[], Free> arena_;
  std::size_t arena_bytes_ = 0;
  std::map<std::pair<int, program::Slot>, float*> external_;
  std::vector<std::unique_ptr<kernels::Convolution>> convolutions_;  // by node
  std::vector<kernels::Activation> activations_;                     // by node
  std::vector<Norm> norms_;                                          // by node
  std::vector<std::vector<float>> remembered_;                       // rolling averages, by node
  ExecutorUsage usage_;
};

}  // namespace tessera::exec
