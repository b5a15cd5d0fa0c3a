#include "sim/simulator.hpp"

#include <algorithm>
#include <deque>

#include "base/check.hpp"
#include "program/work.hpp"
#include "sim/network.hpp"
#include "sim/update.hpp"

namespace tessera::sim {

using graph::Graph;
using program::Program;
using program::ProgramSet;
using program::Step;

namespace {

std::size_t at(int i) { return static_cast<std::size_t>(i); }

using Steps = std::vector<Step> Program::*;

// One pass of all programs. Each runs until it waits for a message that is not sent yet; the order in which they are
// looked at changes nothing.
class Pass {
 public:
  Pass(const Graph& graph, const ProgramSet& set, Steps steps, bool sum_gradients, const std::vector<DeviceProfile>& profiles,
       std::vector<DeviceForecast>& devices)
      : graph_(graph),
        set_(set),
        steps_(steps),
        sum_gradients_(sum_gradients),
        profiles_(profiles),
        devices_(devices),
        network_(profiles),
        runs_(set.programs.size()) {
    std::uint32_t last = 0;
    for (const Program& program : set.programs)
      for (const Step& step : program.*steps) last = std::max(last, step.transfer);
    messages_.resize(last + 1);
    waiting_.assign(last + 1, -1);
  }

  // Seconds until everybody is done.
  double run() {
    std::deque<int> ready;
    for (int p = 0; p < participants(); ++p) ready.push_back(p);
    while (!ready.empty()) {
      advance(ready.front(), ready);
      ready.pop_front();
    }
    double end = 0;
    std::string stuck;
    for (int p = 0; p < participants(); ++p) {
      end = std::max(end, runs_[at(p)].clock);
      if (runs_[at(p)].next < (set_.programs[at(p)].*steps_).size()) stuck += "; " + describe(p);
    }
    TESSERA_CHECK(stuck.empty(), "participants wait for each other{}", stuck);
    return end;
  }

 private:
  struct Run {
    std::size_t next = 0;  // step
    double clock = 0;
  };

  int participants() const { return static_cast<int>(set_.programs.size()); }

  void advance(int p, std::deque<int>& ready) {
    Run& run = runs_[at(p)];
    DeviceForecast& device = devices_[at(p)];
    const Program& program = set_.programs[at(p)];
    const auto& steps = program.*steps_;
    for (; run.next < steps.size(); ++run.next) {
      const Step& step = steps[run.next];
      if (program::sums_gradients(step.op) && !sum_gradients_) continue;
      if (program::is_receive(step.op)) {
        const Message& message = messages_[step.transfer];
        if (message.start < 0) {
          waiting_[step.transfer] = p;
          return;
        }
        run.clock = std::max(run.clock, network_.arrival(message));
      }
      compute(p, step);
      const std::uint64_t bytes = program::message_bytes(graph_, program, step);
      if (program::is_receive(step.op)) device.received_bytes += bytes;
      if (!program::is_send(step.op)) continue;
      device.sent_bytes += bytes;
      ++device.sent_messages;
      messages_[step.transfer] = network_.send(p, step.peer, bytes, run.clock);
      if (waiting_[step.transfer] >= 0) ready.push_back(waiting_[step.transfer]);
    }
  }

  void compute(int p, const Step& step) {
    const auto work = program::work(graph_, set_.programs[at(p)], step, participants());
    const DeviceProfile& profile = profiles_[at(p)];
    const double seconds = std::max(static_cast<double>(work.multiply_adds) / profile.multiply_adds_per_second,
                                    static_cast<double>(work.memory_bytes) / profile.memory_bytes_per_second);
    runs_[at(p)].clock += seconds;
    devices_[at(p)].busy_seconds += seconds;
    devices_[at(p)].multiply_adds += work.multiply_adds;
  }

  std::string describe(int p) const {
    const Run& run = runs_[at(p)];
    const Step& step = (set_.programs[at(p)].*steps_)[run.next];
    return fmt::format("participant {} at step {} ({} of node {} from {}, transfer {})", p, run.next, to_string(step.op), step.node,
                       step.peer, step.transfer);
  }

  const Graph& graph_;
  const ProgramSet& set_;
  const Steps steps_;
  const bool sum_gradients_;
  const std::vector<DeviceProfile>& profiles_;
  std::vector<DeviceForecast>& devices_;
  Network network_;
  std::vector<Run> runs_;
  std::vector<Message> messages_;  // by transfer
  std::vector<int> waiting_;       // by transfer: the participant that waits for it
};

}  // namespace

Forecast simulate(const Graph& graph, const ProgramSet& programs, const std::vector<DeviceProfile>& profiles) {
  TESSERA_CHECK(profiles.size() == programs.programs.size(), "{} profiles for {} programs", profiles.size(), programs.programs.size());
  Forecast forecast;
  forecast.devices.resize(profiles.size());
  forecast.forward_seconds = Pass(graph, programs, &Program::forward, false, profiles, forecast.devices).run();
  if (programs.mode == program::Mode::kTrain) {
    std::vector<DeviceForecast> not_counted(profiles.size());
    forecast.backward_seconds = Pass(graph, programs, &Program::backward, false, profiles, not_counted).run();
    const double with_sums = Pass(graph, programs, &Program::backward, true, profiles, forecast.devices).run();
    forecast.reduce_seconds = with_sums - forecast.backward_seconds + update_weights(graph, *programs.sharding, profiles, forecast.devices);
  }
  for (std::size_t p = 0; p < profiles.size(); ++p) {
    DeviceForecast& device = forecast.devices[p];
    device.waiting_seconds = forecast.seconds(1) - device.busy_seconds;
    device.arena_bytes = programs.programs[p].arena_bytes;
    device.parameter_bytes = parameter_bytes(graph, programs, static_cast<int>(p));
    const auto needed = static_cast<double>(device.arena_bytes + device.parameter_bytes);
    forecast.fits = forecast.fits && (profiles[p].memory_bytes <= 0 || needed <= profiles[p].memory_bytes);
  }
  return forecast;
}

}  // namespace tessera::sim
