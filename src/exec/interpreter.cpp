#include "exec/interpreter.hpp"

#include <algorithm>
#include <thread>

#include "base/check.hpp"
#include "program/compile.hpp"

namespace tessera::exec {

struct Interpreter::Device {
  Device(const graph::Graph& graph, const Parameters& shared, std::unique_ptr<transport::Endpoint> own_endpoint, int self,
         const InterpreterOptions& options)
      : endpoint(std::move(own_endpoint)),
        mailbox(*endpoint, 0, options.patience),
        pool(options.threads),
        storage(self == 0 ? graph::Graph{} : graph, ParameterStorage::Holds::kReplica),
        parameters(self == 0 ? shared : storage.parameters()),
        executor(graph, parameters, options.backend, pool) {}

  std::unique_ptr<transport::Endpoint> endpoint;
  Mailbox mailbox;
  base::ThreadPool pool;
  ParameterStorage storage;
  const Parameters& parameters;
  Executor executor;
};

Interpreter::Interpreter(const graph::Graph& graph, const Parameters& parameters,
                         std::vector<std::unique_ptr<transport::Endpoint>> endpoints, const InterpreterOptions& options)
    : graph_(graph) {
  for (std::size_t p = 0; p < endpoints.size(); ++p)
    devices_.push_back(std::make_unique<Device>(graph, parameters, std::move(endpoints[p]), static_cast<int>(p), options));
  share_parameters();
}

Interpreter::~Interpreter() = default;

base::Status Interpreter::load(const graph::Graph& graph, const plan::Plan& plan, program::Mode mode) {
  TESSERA_CHECK(plan.participants == participants(), "a plan for {}, {} endpoints", plan.participants, participants());
  TESSERA_TRY(plan::validate(plan, graph));
  graph_ = graph;
  programs_ = program::compile(graph, plan, mode);
  if (held_ && !held_->covers(*programs_.sharding)) share_weights();
  for (int p = 0; p < participants(); ++p) {
    auto program = std::make_shared<const program::Program>(programs_.programs[static_cast<std::size_t>(p)]);
    TESSERA_TRY(executor(p).load(graph, std::move(program), mode, p, participants(), plan.batch));
  }
  if (mode == program::Mode::kTrain) {
    momentum_sharding_ = programs_.sharding;
    share_momentum();
  }
  return {};
}

void Interpreter::bind(int node, program::Slot slot, float* data) { executor(0).bind(node, slot, data); }

template <typename Work>
base::Status Interpreter::everywhere(Work work) {
  ++run_;
  std::vector<base::Status> results(devices_.size());
  std::vector<std::thread> threads;
  for (std::size_t p = 0; p < devices_.size(); ++p)
    threads.emplace_back([&, p] {
      devices_[p]->mailbox.start_run(run_);
      results[p] = work(static_cast<int>(p), *devices_[p]);
      if (!results[p])
        for (auto& device : devices_) device->mailbox.abort();
    });
  for (auto& thread : threads) thread.join();
  for (auto& device : devices_) device->mailbox.resume();
  for (auto& result : results)
    if (!result && result.error().code != base::ErrorCode::kAborted) return result;
  for (auto& result : results) TESSERA_TRY(result);
  return {};
}

base::Status Interpreter::forward() {
  return everywhere([](int, Device& device) { return device.executor.forward(device.mailbox); });
}

base::Status Interpreter::backward(bool last) {
  return everywhere([last](int, Device& device) { return device.executor.backward(device.mailbox, last); });
}

base::Status Interpreter::apply(const OptimizerStep& step) {
  held_ = programs_.sharding;
  return everywhere([&](int, Device& device) -> base::Status {
    device.executor.update(step);
    return device.executor.share_update(device.mailbox);
  });
}

void Interpreter::share_parameters() {
  share_weights();
  share_momentum();
}

void Interpreter::share_weights() {
  std::vector<std::byte> bytes(parameter_bytes(parameters(0)));
  write_parameters(parameters(0), bytes);
  for (int p = 1; p < participants(); ++p) read_parameters(bytes, parameters(p));
  held_ = nullptr;
  for (auto& device : devices_) device->executor.weights_changed();
}

void Interpreter::share_momentum() {
  for (int p = 1; p < participants() && momentum_sharding_; ++p)
    std::ranges::copy(momentum_of(parameters(0), *momentum_sharding_, p), executor(p).shard().momentum().begin());
}

Gradients& Interpreter::gradients(int participant) { return executor(participant).gradients(); }
const Parameters& Interpreter::parameters(int participant) const { return devices_[static_cast<std::size_t>(participant)]->parameters; }
Executor& Interpreter::executor(int participant) { return devices_[static_cast<std::size_t>(participant)]->executor; }
const MailboxUsage& Interpreter::usage(int participant) const { return devices_[static_cast<std::size_t>(participant)]->mailbox.usage(); }

}  // namespace tessera::exec
