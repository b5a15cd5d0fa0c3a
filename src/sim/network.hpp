// The links of all participants in virtual time.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "sim/simulator.hpp"

namespace tessera::sim {

// A message on its way.
struct Message {
  int from = 0, to = 0;
  double bytes = 0;
  double start = -1;  // its first byte leaves; negative: not sent yet
};

class Network {
 public:
  explicit Network(const std::vector<DeviceProfile>& profiles)
      : profiles_(profiles), outgoing_free_(profiles.size()), incoming_(profiles.size()) {}

  // Hands a message to `from`'s link at `now`. Called in the order in which `from` sends.
  Message send(int from, int to, std::uint64_t bytes, double now);

  // When it has arrived. Called once, in the order in which its receiver takes messages.
  double arrival(const Message& message);

 private:
  // The times at which an incoming link is taken, start → end, disjoint.
  using Busy = std::map<double, double>;

  // Takes `seconds` of a link's free time from `start` on and returns when they are over.
  static double take(Busy& busy, double start, double seconds);

  const std::vector<DeviceProfile>& profiles_;
  std::vector<double> outgoing_free_;
  std::vector<Busy> incoming_;
};

}  // namespace tessera::sim
