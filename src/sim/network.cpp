#include "sim/network.hpp"

#include <algorithm>
#include <iterator>

namespace tessera::sim {

Message Network::send(int from, int to, std::uint64_t bytes, double now) {
  double& free = outgoing_free_[static_cast<std::size_t>(from)];
  const Message message{from, to, static_cast<double>(bytes), std::max(now, free)};
  free = message.start + message.bytes / profiles_[static_cast<std::size_t>(from)].link_bytes_per_second;
  return message;
}

double Network::arrival(const Message& message) {
  const DeviceProfile& sender = profiles_[static_cast<std::size_t>(message.from)];
  const DeviceProfile& receiver = profiles_[static_cast<std::size_t>(message.to)];
  const double left = message.start + message.bytes / sender.link_bytes_per_second;
  const double taken = take(incoming_[static_cast<std::size_t>(message.to)], message.start, message.bytes / receiver.link_bytes_per_second);
  return std::max(left, taken) + std::max(sender.message_seconds, receiver.message_seconds);
}

double Network::take(Busy& busy, double start, double seconds) {
  auto next = busy.upper_bound(start);
  if (next != busy.begin() && std::prev(next)->second >= start) --next;
  double begin = start, now = start;
  // Everything from `begin` to the end will be taken, so the periods passed on the way become one.
  while (next != busy.end() && next->first < now + seconds) {
    seconds -= std::max(0.0, next->first - now);
    begin = std::min(begin, next->first);
    now = std::max(now, next->second);
    next = busy.erase(next);
  }
  busy[begin] = now + seconds;
  return now + seconds;
}

}  // namespace tessera::sim
