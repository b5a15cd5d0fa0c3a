// Runs the same programs as the devices do, in virtual time: a profile instead of kernels and sockets.
//
// Every participant has a clock and a full-duplex link. A computing step takes the longer of its arithmetic and its
// memory traffic. A send packs its message and goes on; messages leave a participant one after the other in program
// order, occupy the link at each end for their bytes at that end's speed, and arrive message_seconds after their last
// byte. What a participant receives shares its incoming link, with precedence for what its program takes first. A
// receive waits for its message, then unpacks it. Both ends give computing time to every byte beside its copies.
//
// Each number that goes in can only push the moments that come out one way: a faster device or link never makes a
// forecast longer.
#pragma once

#include <vector>

#include "graph/graph.hpp"
#include "plan/plan.hpp"
#include "program/program.hpp"

namespace tessera::sim {

// What one participant can do. The defaults are a Raspberry Pi 3 (profiles.hpp).
struct DeviceProfile {
  double multiply_adds_per_second = 9e9;   // of convolutions
  double memory_bytes_per_second = 2e9;    // of everything else
  double link_bytes_per_second = 11.75e6;  // each way
  double message_seconds = 300e-6;         // per message, beside its bytes
  double memory_bytes = 0;                 // for tensors and parameters; 0: not limited
  double byte_seconds = 20e-9;             // of computing time to send or receive a byte
};

// Of one iteration of one pass: load, forward, the last backward, update and share.
struct DeviceForecast {
  double busy_seconds = 0;
  double waiting_seconds = 0;
  std::uint64_t sent_bytes = 0;
  std::uint64_t received_bytes = 0;
  std::uint64_t sent_messages = 0;
  std::uint64_t multiply_adds = 0;
  std::size_t arena_bytes = 0;
  std::size_t parameter_bytes = 0;  // weights, statistics and momentum
};

struct Forecast {
  double forward_seconds = 0;   // of any pass but the first: fresh parameters are there
  double backward_seconds = 0;  // of any pass but the last: nothing is reduced; the next pass's inputs travel meanwhile
  double reduce_seconds = 0;    // what summing gradients, the update and fresh parameters add; once per iteration
  bool fits = true;             // every device's memory
  std::vector<DeviceForecast> devices;

  double seconds(int subdivisions) const { return subdivisions * (forward_seconds + backward_seconds) + reduce_seconds; }
};

// `profiles[p]` is participant p's. A set in test mode has a forward pass only. Programs in which participants wait for each
// other fail a check that names the steps.
Forecast simulate(const graph::Graph& graph, const program::ProgramSet& programs, const std::vector<DeviceProfile>& profiles);

}  // namespace tessera::sim
