// All participants of a plan in one process, one thread each, over any endpoints: what tests and benchmarks run.
#pragma once

#include <memory>
#include <vector>

#include "exec/executor.hpp"
#include "plan/plan.hpp"
#include "transport/endpoint.hpp"

namespace tessera::exec {

struct InterpreterOptions {
  kernels::Backend backend = kernels::Backend::kBlas;
  int threads = 1;  // of each participant
  base::Milliseconds patience{60000};
};

class Interpreter {
 public:
  // `endpoints[p]` is participant p's, all connected to each other. Participant 0 works on `parameters`, which must
  // outlive the interpreter; the others start with copies of their values.
  Interpreter(const graph::Graph& graph, const Parameters& parameters, std::vector<std::unique_ptr<transport::Endpoint>> endpoints,
              const InterpreterOptions& options);
  ~Interpreter();

  // Compiles the plan (of as many participants as there are endpoints) and makes it current.
  [[nodiscard]] base::Status load(const graph::Graph& graph, const plan::Plan& plan, program::Mode mode);
  // Memory behind participant 0's external buffers of the current plan.
  void bind(int node, program::Slot slot, float* data);

  [[nodiscard]] base::Status forward();
  // After the last pass of a batch the gradients are complete in gradients(0), and each chunk's with its owner.
  [[nodiscard]] base::Status backward(bool last);
  // Applies them everywhere.
  [[nodiscard]] base::Status apply(const OptimizerStep& step);

  // Copies participant 0's parameters, momentum included, to all others (after they were loaded or changed).
  void share_parameters();

  int participants() const { return static_cast<int>(devices_.size()); }
  Gradients& gradients(int participant);
  const Parameters& parameters(int participant) const;
  Executor& executor(int participant);
  const MailboxUsage& usage(int participant) const;
  const program::ProgramSet& programs() const { return programs_; }

 private:
  struct Device;

  // Runs `work` on every device, each in its thread, and returns the first error.
  template <typename Work>
  base::Status everywhere(Work work);
  void share_weights();
  void share_momentum();

  graph::Graph graph_;
  std::vector<std::unique_ptr<Device>> devices_;
  program::ProgramSet programs_;
  std::shared_ptr<const program::Sharding> momentum_sharding_;  // of the last program in training
  std::shared_ptr<const program::Sharding> held_;               // of the last update: who has which weights; none: everybody all
  std::uint64_t run_ = 0;
};

}  // namespace tessera::exec
