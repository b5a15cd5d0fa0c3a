#include "sim/simulator.hpp"

#include <algorithm>
#include <deque>
#include <map>
#include <unordered_map>

#include "base/check.hpp"
#include "program/work.hpp"
#include "sim/network.hpp"

namespace tessera::sim {

using graph::Graph;
using program::Phase;
using program::Program;
using program::ProgramSet;
using program::Step;

namespace {

std::size_t at(int i) { return static_cast<std::size_t>(i); }

using Steps = std::vector<const Step*>;

// The steps of all participants in the order in which they run. Each runs until it waits for a message that is not sent yet; the
// order in which they are looked at changes nothing.
class Run {
 public:
  Run(const Graph& graph, const ProgramSet& set, const std::vector<Steps>& steps, const std::vector<DeviceProfile>& profiles,
      std::vector<DeviceForecast>& devices)
      : graph_(graph), set_(set), steps_(steps), profiles_(profiles), devices_(devices), network_(profiles), runs_(set.programs.size()) {}

  // Seconds until everybody is done.
  double seconds() {
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
      if (runs_[at(p)].next < steps_[at(p)].size()) stuck += "; " + describe(p);
    }
    TESSERA_CHECK(stuck.empty(), "participants wait for each other{}", stuck);
    return end;
  }

 private:
  struct Participant {
    std::size_t next = 0;  // step
    double clock = 0;
    // Messages to it that it has not taken, by sender and transfer.
    std::unordered_map<std::uint64_t, Message> arriving;
    std::uint64_t waits_for = kNothing;
  };
  static constexpr std::uint64_t kNothing = ~std::uint64_t{0};

  static std::uint64_t key(int from, const Step& step) {
    // The same transfer numbers come again in another phase.
    return (static_cast<std::uint64_t>(from) << 40) | (static_cast<std::uint64_t>(step.phase == program::Phase::kShare) << 32) |
           step.transfer;
  }

  int participants() const { return static_cast<int>(set_.programs.size()); }

  void advance(int p, std::deque<int>& ready) {
    Participant& run = runs_[at(p)];
    DeviceForecast& device = devices_[at(p)];
    const Program& program = set_.programs[at(p)];
    for (; run.next < steps_[at(p)].size(); ++run.next) {
      const Step& step = *steps_[at(p)][run.next];
      const std::uint64_t bytes = program::message_bytes(program, step);
      if (program::is_receive(step)) {
        const auto message = run.arriving.find(key(step.peer, step));
        if (message == run.arriving.end()) {
          run.waits_for = key(step.peer, step);
          return;
        }
        run.clock = std::max(run.clock, network_.arrival(message->second));
        run.arriving.erase(message);
        device.received_bytes += bytes;
      }
      compute(p, step);
      if (!program::is_send(step)) continue;
      device.sent_bytes += bytes;
      ++device.sent_messages;
      Participant& peer = runs_[at(step.peer)];
      peer.arriving[key(p, step)] = network_.send(p, step.peer, bytes, run.clock);
      if (peer.waits_for != key(p, step)) continue;
      peer.waits_for = kNothing;
      ready.push_back(step.peer);
    }
  }

  void compute(int p, const Step& step) {
    const auto work = program::work(graph_, set_.programs[at(p)], step);
    const DeviceProfile& profile = profiles_[at(p)];
    const double seconds = std::max(static_cast<double>(work.multiply_adds) / profile.multiply_adds_per_second,
                                    static_cast<double>(work.memory_bytes) / profile.memory_bytes_per_second) +
                           static_cast<double>(program::message_bytes(set_.programs[at(p)], step)) * profile.byte_seconds;
    runs_[at(p)].clock += seconds;
    devices_[at(p)].busy_seconds += seconds;
    devices_[at(p)].multiply_adds += work.multiply_adds;
  }

  std::string describe(int p) const {
    const Participant& run = runs_[at(p)];
    const Step& step = *steps_[at(p)][run.next];
    return fmt::format("participant {} at step {} ({} of node {} from {}, transfer {})", p, run.next, to_string(step.op), step.node,
                       step.peer, step.transfer);
  }

  const Graph& graph_;
  const ProgramSet& set_;
  const std::vector<Steps>& steps_;
  const std::vector<DeviceProfile>& profiles_;
  std::vector<DeviceForecast>& devices_;
  Network network_;
  std::vector<Participant> runs_;
};

class Simulator {
 public:
  Simulator(const Graph& graph, const ProgramSet& set, const std::vector<DeviceProfile>& profiles)
      : graph_(graph), set_(set), profiles_(profiles) {}

  // Seconds of a part of an iteration, by what it consists of.
  struct Part {
    bool update = false, load_first = false, forward = false, backward = false, reduces = false, load_last = false;
  };
  double seconds(const Part& part, std::vector<DeviceForecast>& devices) const {
    std::vector<Steps> steps;
    for (const Program& program : set_.programs) steps.push_back(steps_of(program, part));
    return Run(graph_, set_, steps, profiles_, devices).seconds();
  }

 private:
  // Fresh parameters are waited for where they are first read, as exec::Executor does.
  static Steps steps_of(const Program& program, const Part& part) {
    Steps steps;
    std::map<int, Steps> fresh;  // by node
    if (part.update) {
      for (const Step& step : program.steps(Phase::kUpdate)) steps.push_back(&step);
      for (const Step& step : program.steps(Phase::kShare)) (program::is_send(step) ? steps : fresh[step.node]).push_back(&step);
    }
    const auto add = [&](Phase phase) {
      for (const Step& step : program.steps(phase)) {
        if (step.phase == Phase::kReduce && !part.reduces) continue;
        const bool transfers = program::is_send(step) || program::is_receive(step);
        if (const auto awaited = fresh.find(step.node); !transfers && awaited != fresh.end()) {
          steps.insert(steps.end(), awaited->second.begin(), awaited->second.end());
          fresh.erase(awaited);
        }
        steps.push_back(&step);
      }
    };
    if (part.load_first) add(Phase::kLoad);
    if (part.forward) add(Phase::kForward);
    if (part.backward) add(Phase::kBackward);
    if (part.load_last) add(Phase::kLoad);
    for (const auto& [node, rest] : fresh) steps.insert(steps.end(), rest.begin(), rest.end());
    return steps;
  }

  const Graph& graph_;
  const ProgramSet& set_;
  const std::vector<DeviceProfile>& profiles_;
};

// Who makes inputs for others needs them for its own tiles, too.
bool makers_compute(const ProgramSet& programs) {
  return std::any_of(programs.programs.begin(), programs.programs.end(), [](const Program& program) {
    const auto& load = program.steps(Phase::kLoad);
    const auto& forward = program.steps(Phase::kForward);
    return std::any_of(load.begin(), load.end(), program::is_send) &&
           std::any_of(forward.begin(), forward.end(), [](const Step& s) { return s.op > program::Op::kReceive; });
  });
}

}  // namespace

Forecast simulate(const Graph& graph, const ProgramSet& programs, const std::vector<DeviceProfile>& profiles) {
  TESSERA_CHECK(profiles.size() == programs.programs.size(), "{} profiles for {} programs", profiles.size(), programs.programs.size());
  Forecast forecast;
  forecast.devices.resize(profiles.size());
  const Simulator simulator(graph, programs, profiles);
  double whole = 0;
  if (programs.mode == program::Mode::kTrain) {
    std::vector<DeviceForecast> not_counted(profiles.size());
    // Who computes nothing sends the next pass's inputs during back-propagation.
    const bool first = makers_compute(programs), ahead = !first;
    forecast.forward_seconds = simulator.seconds({.load_first = first, .forward = true}, not_counted);
    forecast.backward_seconds = simulator.seconds({.backward = true, .load_last = ahead}, not_counted);
    // Everybody has summed before anybody updates: an iteration begins with the update of the one before.
    whole = simulator.seconds({.update = true, .load_first = first, .forward = true}, forecast.devices) +
            simulator.seconds({.backward = true, .reduces = true, .load_last = ahead}, forecast.devices);
    forecast.reduce_seconds = whole - forecast.forward_seconds - forecast.backward_seconds;
  } else {
    whole = forecast.forward_seconds = simulator.seconds({.load_first = true, .forward = true}, forecast.devices);
  }
  for (std::size_t p = 0; p < profiles.size(); ++p) {
    DeviceForecast& device = forecast.devices[p];
    device.waiting_seconds = whole - device.busy_seconds;
    device.arena_bytes = programs.programs[p].arena_bytes;
    device.parameter_bytes = programs.programs[p].parameter_bytes;
    const auto needed = static_cast<double>(device.arena_bytes + device.parameter_bytes);
    forecast.fits = forecast.fits && (profiles[p].memory_bytes <= 0 || needed <= profiles[p].memory_bytes);
  }
  return forecast;
}

}  // namespace tessera::sim
