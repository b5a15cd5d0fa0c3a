// The coordinator's side of a session: opens it on every worker, makes and hands out plans, drives the phases of an
// iteration, and goes on with those who remain when somebody is lost.
//
// An iteration is a transaction: any number of forward and backward passes, then settle(), then commit(). Parameters are at home
// on the devices; collect() brings them here. After an error recover() brings everybody who remains back to what was collected
// last, and the caller repeats the iterations since.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cluster/cluster_file.hpp"
#include "cluster/planning.hpp"
#include "cluster/snapshot.hpp"
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
  // After a backward pass, whose deltas go first: the inputs that are bound now are those of the next forward pass, with the same
  // program, and leave already. `last`: as it was said to backward(). Only when the coordinator itself computes nothing and so
  // does not need the current inputs any more.
  bool may_send_ahead() const;
  [[nodiscard]] base::Status send_next_inputs(bool last);
  // The next forward pass has other inputs than were sent.
  void ignore_sent_inputs();
  // `last` of a batch: the gradients are summed meanwhile.
  [[nodiscard]] base::Status backward(bool last) { return run(last ? "last_backward" : "backward"); }
  // Waits until they are summed everywhere. kNotFinite: some gradient is no number; nothing was changed by it yet.
  [[nodiscard]] base::Status settle();
  // Applies them everywhere. Cannot fail: a worker that is lost now is noticed by the next pass.
  void commit(const exec::OptimizerStep& step);

  // Brings all parameters and momentum into the arrays that start() was given. Nothing to do without workers. On an error these
  // hold what was collected before.
  [[nodiscard]] base::Status collect();
  // How many iterations should pass between two collections, so that they cost about as much time as would be lost by going back.
  int iterations_between_collections() const;

  // After an error of any of the above: finds out who is lost, says so, and brings the others back to what was collected last.
  // Errors: kAborted when nothing can go on.
  [[nodiscard]] base::Status recover();

  // The parameters were changed from outside: all workers get them when they are needed next.
  void parameters_changed();

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
  // Filters whose parameters a participant has, by node.
  struct Held {
    std::vector<geometry::Range> filters, home;
  };
  struct Selected {
    int key = 0;
    program::Mode mode = program::Mode::kTrain;
    geometry::Index batch = 0;
    graph::Graph graph;
    plan::Plan plan;
    std::shared_ptr<const program::Program> program;
    std::vector<Held> held;  // what its programs need, by participant
  };

  Coordinator(const graph::Graph& graph, const exec::Parameters& parameters, SessionOptions options,
              std::unique_ptr<transport::Endpoint> endpoint, std::uint64_t session);

  base::Status open_worker(Worker& worker, const transport::SessionToken& token);
  base::Status connect_peers();

  PlanningInput planning_input(const graph::Graph& graph, geometry::Index batch) const;
  base::Status choose_layout(const Planning& planning);
  base::Status distribute(const Selected& selected, const program::ProgramSet& programs);
  base::Status make_current(const Selected& selected);
  bool holds(const std::vector<Held>& needed) const;
  // From parameters_ to everybody.
  base::Status scatter(const Selected& selected);
  double memory_limit(std::size_t participant) const;

  base::Result<wire::ControlMessage> await_answer(Worker& worker, const std::string& type);
  // Starts a phase on all workers.
  void begin(const std::string& phase);
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
  std::vector<int> members_;  // endpoint numbers by participant; the coordinator first
  std::optional<Snapshot> snapshot_;
  std::vector<Held> held_;  // by participant; empty: nothing they could go on with
  int trained_key_ = -1;    // of the last commit
  bool trained_ = false;    // since parameters were collected last
  double iteration_seconds_ = 0, collection_seconds_ = 0;
  base::TimePoint committed_ = {};

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
