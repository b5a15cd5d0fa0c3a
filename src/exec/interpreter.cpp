#include "exec/interpreter.hpp"

#include <algorithm>
#include <thread>

#include "base/check.hpp"
#include "program/compile.hpp"

namespace tessera::exec {

struct Interpreter::Device {
  Device(const graph::Graph& graph, std::optional<Parameters> parameters, std::unique_ptr<transport::Endpoint> own_endpoint,
         const InterpreterOptions& options)
      : endpoint(std::move(own_endpoint)),
        mailbox(*endpoint, 0, options.patience),
        pool(options.threads),
        executor(graph, std::move(parameters), options.backend, pool) {}

  std::unique_ptr<transport::Endpoint> endpoint;
  Mailbox mailbox;
  base::ThreadPool pool;
  Executor executor;
};

Interpreter::Interpreter(const graph::Graph& graph, const Parameters& parameters,
                         std::vector<std::unique_ptr<transport::Endpoint>> endpoints, const InterpreterOptions& options, int host)
    : graph_(graph), host_(host) {
  for (std::size_t p = 0; p < endpoints.size(); ++p)
    devices_.push_back(std::make_unique<Device>(graph, static_cast<int>(p) == host ? std::optional(parameters) : std::nullopt,
                                                std::move(endpoints[p]), options));
}

Interpreter::~Interpreter() = default;

base::Status Interpreter::load(const graph::Graph& graph, const plan::Plan& plan, program::Mode mode) {
  TESSERA_CHECK(plan.participants == participants() && plan.host == host_, "a plan for {} with host {}, {} endpoints", plan.participants,
                plan.host, participants());
  TESSERA_TRY(plan::validate(plan, graph));
  if (trained_) TESSERA_TRY(collect());
  graph_ = graph;
  programs_ = program::compile(graph, plan, mode);
  TESSERA_TRY(everywhere([&](int p, Device& device) {
    auto program = std::make_shared<const program::Program>(programs_.programs[static_cast<std::size_t>(p)]);
    return device.executor.load(graph, std::move(program), plan.batch, device.mailbox);
  }));
  return share_parameters();
}

void Interpreter::bind(int node, program::Slot slot, float* data) { executor(host_).bind(node, slot, data); }

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
  trained_ = true;
  return everywhere([&](int, Device& device) { return device.executor.update(step, device.mailbox); });
}

base::Status Interpreter::collect() {
  trained_ = false;
  const Parameters& all = executor(host_).parameters();
  const Executor::Sink sink = [&](int node, program::Slot slot, const geometry::Box& box, std::span<const float> values) {
    const auto target = parameter_view(graph_, all, node, slot);
    std::ranges::copy(values, &target.at(box.n.begin, 0, 0, 0));
  };
  return everywhere([&](int, Device& device) { return device.executor.gather(device.mailbox, sink); });
}

base::Status Interpreter::share_parameters() {
  for (const bool momentum : {false, true})
    TESSERA_TRY(everywhere([&](int, Device& device) { return device.executor.scatter(device.mailbox, momentum); }));
  return {};
}

Executor& Interpreter::executor(int participant) { return devices_[static_cast<std::size_t>(participant)]->executor; }
const MailboxUsage& Interpreter::usage(int participant) const { return devices_[static_cast<std::size_t>(participant)]->mailbox.usage(); }

}  // namespace tessera::exec
