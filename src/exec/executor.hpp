// Runs one participant's programs: kernels on the arena, pieces through the mailbox.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/result.hpp"
#include "base/thread_pool.hpp"
#include "exec/mailbox.hpp"
#include "exec/parameters.hpp"
#include "kernels/batch_norm.hpp"
#include "kernels/convolution.hpp"
#include "kernels/update.hpp"
#include "program/program.hpp"

namespace tessera::exec {

// The convolutions of a graph, in order.
std::vector<kernels::ConvolutionShape> convolution_shapes(const graph::Graph& graph);

// What one optimiser step needs beside gradients (Darknet's update_args).
struct OptimizerStep {
  float learning_rate = 0;
  float momentum = 0;
  float decay = 0;
  int batch = 1;  // images: batch * subdivisions
};

struct ExecutorUsage {
  double busy_seconds = 0;  // in kernels
};

// One thread. Holds no tensors between programs, only parameters and the statistics of the last forward pass.
class Executor {
 public:
  // `pool` must outlive the executor. `parameters`: memory of the caller for all filters; without them the executor keeps what its
  // programs need itself. `inference`: only programs for tests will be run, and weights in the backend's own layout are kept.
  Executor(const graph::Graph& graph, std::optional<Parameters> parameters, kernels::Backend backend, base::ThreadPool& pool,
           bool inference = false);

  // Before the first load().
  void set_backend(kernels::Backend backend) { backend_ = backend; }

  // Makes `program` the current one and reserves its memory: kOutOfMemory when there is not enough, kInvalidArgument when a layer
  // cannot be computed. The graph may have other sizes than before, but the same layers. Own parameters are kept as far as the
  // program needs no others than the one before, else they are zero. What is still awaited of an update comes in first.
  [[nodiscard]] base::Status load(const graph::Graph& graph, std::shared_ptr<const program::Program> program, geometry::Index batch,
                                  Mailbox& mailbox);

  // Gives all memory of programs back. load() comes before the next pass.
  void release();

  // Memory of the caller behind a buffer of the current program (Storage::kCaller).
  void bind(int node, program::Slot slot, float* data);

  // Runs one pass of the current program. Transfers go through `mailbox`, whose run has been started. After an error
  // the tensors are lost, and parameters are a mixture: abandon(), then scatter.
  [[nodiscard]] base::Status forward(Mailbox& mailbox, bool inputs_are_sent = false);
  // What this participant makes of the inputs of the forward pass `ahead` runs later, from what is bound now.
  [[nodiscard]] base::Status send_inputs(Mailbox& mailbox, std::uint64_t ahead);
  // `last`: of a batch, then gradients are summed at their homes as well.
  [[nodiscard]] base::Status backward(Mailbox& mailbox, bool last);
  // The node whose gradient was found not to be finite after the last pass.
  std::optional<int> not_finite() const { return not_finite_; }

  // One optimiser step on the filters that are at home here; fresh values leave for their readers. Those of others come in
  // when a layer is computed next.
  [[nodiscard]] base::Status update(const OptimizerStep& step, Mailbox& mailbox);
  // What is still awaited of the last update.
  [[nodiscard]] base::Status finish_update(Mailbox& mailbox);

  // Every value that is at home somewhere goes to the host, which gives it to `sink`: a piece of the array of a node.
  using Sink = std::function<void(int node, program::Slot slot, const geometry::Box& box, std::span<const float> values)>;
  [[nodiscard]] base::Status gather(Mailbox& mailbox, const Sink& sink);
  // The host's values to all who read them.
  [[nodiscard]] base::Status scatter(Mailbox& mailbox, bool momentum);

  // Forgets an iteration that cannot be finished.
  void abandon();

  // The weights were changed from outside.
  void weights_changed();

  const graph::Graph& graph() const { return graph_; }
  const Parameters& parameters() const { return parameters_; }

  // Planned memory of the current program: arena and kernel scratch.
  std::size_t planned_bytes() const { return arena_bytes_ + scratch_.bytes(); }
  const ExecutorUsage& usage() const { return usage_; }

 private:
  struct Norm {  // of one batch-normalised layer
    std::vector<float> mean, variance;
    std::vector<kernels::ChannelSums> total;
  };
  struct Free {
    void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t{program::kBufferAlignment}); }
  };
  // Arrays of one transfer.
  struct Array {
    program::Slot slot;
    std::byte* data;
    geometry::Box whole, box;
  };

  base::Status load_convolutions(const program::Program& program, const graph::Graph& graph);
  base::Status load_arena(const program::Program& program);
  void clear_kept();
  base::Status run(program::Phase phase, Mailbox& mailbox, bool with_reduction = false);
  base::Status transfer(const program::Step& step, Mailbox& mailbox);
  std::span<const program::Step> same_sends(const std::vector<program::Step>& steps, std::size_t first) const;
  void compute(const program::Step& step);
  void forward_step(const program::Step& step);
  void backward_step(const program::Step& step);
  void update_step(const program::Step& step);
  void inspect(const program::Step& step);
  // What `step` reads of parameters is on its way: takes it.
  base::Status await_fresh(const program::Step& step, Mailbox& mailbox);
  base::Status await_fresh(int node, Mailbox& mailbox);

  const program::Buffer& buffer(int number) const { return program_->buffer(number); }
  std::byte* memory(int number) const;
  geometry::FloatView view(int number) const;
  geometry::View<std::uint8_t> winners(int number) const;
  template <typename T>
  std::span<T> statistics(int number) const;
  // This participant's among the parts in a buffer.
  template <typename T>
  std::span<T> part_of(std::span<T> parts, int number) const;
  Piece piece(const program::Step& step) const;
  std::vector<Array> arrays(const program::Step& step) const;
  // The box of the first step, to the peers of all: steps of the same arrays and box.
  base::Status send(std::span<const program::Step> steps, Mailbox& mailbox, std::uint64_t ahead = 0);
  base::Status receive(const program::Step& step, Mailbox& mailbox, std::optional<std::uint64_t> run = {});

  const LayerParameters& parameters(int node) const { return parameters_.layers[static_cast<std::size_t>(node)]; }
  const float* filters(int node, geometry::Index first) const;  // weights from this filter on
  kernels::NormParameters norm_parameters(int node) const;
  kernels::Convolution& convolution(int node) { return *convolutions_[static_cast<std::size_t>(node)]; }
  Norm& norm(int node) { return norms_[static_cast<std::size_t>(node)]; }

  graph::Graph graph_;
  std::optional<ParameterStorage> storage_;
  const bool own_parameters_;
  Parameters parameters_;
  kernels::Backend backend_;
  const bool inference_;
  base::ThreadPool& pool_;
  kernels::Scratch scratch_;

  std::shared_ptr<const program::Program> program_;
  geometry::Index batch_ = 1;
  std::unique_ptr<std::byte[], Free> arena_;
  std::size_t arena_bytes_ = 0;
  std::map<std::pair<int, program::Slot>, float*> external_;
  std::vector<std::unique_ptr<kernels::Convolution>> convolutions_;  // by node
  std::vector<kernels::Activation> activations_;                     // by node
  std::vector<Norm> norms_;                                          // by node

  std::map<int, std::vector<program::Step>> fresh_;  // by node: what is still awaited of the last update
  std::uint64_t fresh_run_ = 0;
  OptimizerStep optimizer_;
  std::optional<int> not_finite_;
  const Sink* sink_ = nullptr;
  ExecutorUsage usage_;
};

// `step` for the layer `node`.
kernels::UpdateParameters update_parameters(const graph::Graph& graph, int node, const OptimizerStep& step);

}  // namespace tessera::exec
