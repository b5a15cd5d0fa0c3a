// The coordinator's side of a session: opens it on every worker, makes and hands out plans, drives the passes of an
// iteration, and goes on with those who remain when somebody is lost.
//
// An iteration is a transaction: any number of forward and backward passes, then settle(), then commit(). Until
// commit() an error leaves the state of the last commit; recover() brings everybody back to it, over the devices that
// remain, and the iteration is done again by the caller.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cluster/cluster_file.hpp"
#include "cluster/worker_link.hpp"
#include "exec/executor.hpp"
#include "observe/device_report.hpp"
#include "plan/planner.hpp"
#include "transport/endpoint.hpp"
#include "transport/shared_memory.hpp"
#include "transport/token.hpp"

namespace tessera::cluster {

struct SessionOptions {
  std::vector<WorkerSpec> workers;                         // none: the coordinator computes alone
  std::string socket_directory;                            // for sockets of local workers; empty: tcp
  std::shared_ptr<transport::SharedMemory> shared_memory;  // with local workers; may be null
  plan::LayoutRequest layout;
  kernels::Backend backend = kernels::Backend::kBlas;
  bool workers_choose_backend = false;          // each takes what is fastest on its machine instead of `backend`
  bool inference = false;                       // forward passes in test mode only: no gradients, weights are kept packed
  int threads = 1;                              // the coordinator's, while it computes alone
  int memory_mb = 0;                            // per device; 0: what it reports
  int subdivisions = 1;                         // passes to an update
  bool insecure = false;                        // peers may connect from other machines without keys
  std::function<void(const std::string&)> say;  // one line a user should read
};

class Coordinator {
 public:
  // Opens the session. `parameters` must outlive it. Errors name the worker and what to do.
  static base::Result<std::unique_ptr<Coordinator>> start(const graph::Graph& graph, const exec::Parameters& parameters,
                                                          SessionOptions options);
  ~Coordinator();

  // Makes the programs for this graph (same layers, maybe other sizes), batch and mode current everywhere.
  [[nodiscard]] base::Status select(const graph::Graph& graph, geometry::Index batch, program::Mode mode);
  // Memory behind an external buffer of the current program.
  void bind(int node, program::Slot slot, float* data) { executor_.bind(node, slot, data); }

  [[nodiscard]] base::Status forward() { return run("forward"); }
  // Between a forward pass and its backward pass: the inputs that are bound now are those of the next forward pass, with the
  // same program, and leave already. `last`: as it will be said to backward(). Only when the coordinator itself computes
  // nothing and so does not need the current inputs any more.
  bool may_send_ahead() const;
  [[nodiscard]] base::Status send_next_inputs(bool last);
  // The next forward pass has other inputs than were sent.
  void ignore_sent_inputs();
  // `last` of a batch: the gradients are summed meanwhile.
  [[nodiscard]] base::Status backward(bool last) { return run(last ? "last_backward" : "backward"); }
  // Waits until they are summed everywhere: from here on the batch can be finished whatever happens.
  [[nodiscard]] base::Status settle();
  // Applies them everywhere. Cannot fail: a worker that is lost now is noticed by the next pass.
  void commit(const exec::OptimizerStep& step);

  // After an error of any of the above: finds out who is lost, says so, and brings the others back to the last commit.
  // Errors: kAborted when nothing can go on.
  [[nodiscard]] base::Status recover();

  // The parameters were changed from outside: sends them to all workers again.
  [[nodiscard]] base::Status share_parameters();

  exec::Gradients& gradients() { return executor_.gradients(); }
  const plan::Plan& plan() const { return plan_; }
  const plan::Layout& layout() const { return layout_; }
  int workers_left() const { return static_cast<int>(members_.size()) - 1; }
  std::vector<observe::DeviceReport> reports();

 private:
  struct Worker {
    WorkerSpec spec;
    int number = 0;  // of its endpoint
    std::string data_address;
    std::uint64_t memory_bytes = 0;
    int cores = 1;
    std::unique_ptr<WorkerLink> link;
    bool expelled = false;
  };
  struct Key {
    std::vector<geometry::Shape> inputs;
    geometry::Index batch;
    program::Mode mode;
    friend bool operator==(const Key&, const Key&) = default;
  };
  struct Selected {
    int key = 0;
    graph::Graph graph;
    plan::Plan plan;
    std::shared_ptr<const program::Program> program;
  };

  Coordinator(const graph::Graph& graph, const exec::Parameters& parameters, SessionOptions options,
              std::unique_ptr<transport::Endpoint> endpoint, std::uint64_t session);

  base::Status open_worker(Worker& worker, std::uint64_t parameters_hash, const transport::SessionToken& token);
  base::Status send_parameters(const std::vector<Worker*>& to);
  // By `momentum_sharding_`. `cleared`: the workers hold zeros, so that zeros need no sending.
  base::Status send_momentum(bool cleared);
  base::Status connect_peers();

  base::Status choose_layout(const graph::Graph& graph, geometry::Index batch);
  base::Status distribute(const Selected& selected, const program::ProgramSet& programs, program::Mode mode);
  double memory_limit(std::size_t participant) const;
  base::Status check_memory(const graph::Graph& graph, const program::ProgramSet& programs) const;

  base::Status run(const std::string& pass);
  std::uint64_t next_run();
  void post_to_members(const std::string& text);
  std::vector<Worker*> members();
  void settle_blame();
  void drop_lost();

  exec::Parameters parameters_;
  const SessionOptions options_;
  const std::uint64_t session_;
  const std::unique_ptr<transport::Endpoint> endpoint_;
  exec::Mailbox mailbox_;
  base::ThreadPool pool_;
  exec::Executor executor_;
  std::vector<Worker> workers_;
  std::vector<int> members_;           // endpoint numbers by participant; the coordinator first
  std::vector<int> momentum_members_;  // among whom the momentum was divided last, and how
  std::shared_ptr<const program::Sharding> momentum_sharding_;
  std::shared_ptr<const program::Sharding> sharding_;  // of the current plan
  std::shared_ptr<const program::Sharding> held_;      // of the last update: who has which weights; none: everybody all

  bool has_layout_ = false;
  plan::Layout layout_;
  plan::Plan plan_;
  std::vector<std::pair<Key, Selected>> selected_;
  int current_ = -1;  // key
  int next_key_ = 0;
  std::uint64_t run_ = 0;
  struct SentAhead {
    std::uint64_t run;
    int key;
  };
  std::optional<SentAhead> sent_ahead_;
  std::vector<observe::DeviceReport> reported_;
};

}  // namespace tessera::cluster
