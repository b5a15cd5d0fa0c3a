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
  // `endpoints[p]` is participant p's, all connected to each other. The host of the plans works on `parameters` (of all filters),
  // which must outlive the interpreter; the others keep what their programs need.
  Interpreter(const graph::Graph& graph, const Parameters& parameters, std::vector<std::unique_ptr<transport::Endpoint>> endpoints,
              const InterpreterOptions& options, int host = 0);
  ~Interpreter();

  // Compiles the plan (of as many participants as there are endpoints) and makes it current; everybody gets what it reads from the
  // host, who has collected what was trained before.
  [[nodiscard]] base::Status load(const graph::Graph& graph, const plan::Plan& plan, program::Mode mode);
  // Memory behind the host's buffers of the current plan.
  void bind(int node, program::Slot slot, float* data);

  [[nodiscard]] base::Status forward();
  // After the last pass of a batch the gradients are in the momentum of their homes.
  [[nodiscard]] base::Status backward(bool last);
  // Applies them everywhere.
  [[nodiscard]] base::Status apply(const OptimizerStep& step);

  // Brings all parameters and momentum to the host's arrays.
  [[nodiscard]] base::Status collect();
  // The host's arrays to everybody (after they were loaded or changed).
  [[nodiscard]] base::Status share_parameters();

  int participants() const { return static_cast<int>(devices_.size()); }
  Executor& executor(int participant);
  const MailboxUsage& usage(int participant) const;
  const program::ProgramSet& programs() const { return programs_; }

 private:
  struct Device;

  // Runs `work` on every device, each in its thread, and returns the first error.
  template <typename Work>
  base::Status everywhere(Work work);

  graph::Graph graph_;
  const int host_;
  std::vector<std::unique_ptr<Device>> devices_;
  program::ProgramSet programs_;
  bool trained_ = false;  // since parameters were collected last
  std::uint64_t run_ = 0;
};

}  // namespace tessera::exec
