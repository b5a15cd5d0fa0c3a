// How one participant talks to its peers: the interface every transport implements (inproc, zmq, faulty).
#pragma once

#include "base/clock.hpp"
#include "base/result.hpp"
#include "transport/frame.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace tessera::transport {

// Two lanes per peer, so that a small message (batch-norm sums, a commit) does not wait behind megabytes of halo.
enum class Lane : std::uint8_t { kUrgent = 0, kBulk = 1 };
inline constexpr int kLanes = 2;
inline constexpr std::size_t kMaxUrgentBytes = std::size_t{1} << 20;  // header + payload on the urgent lane

struct Incoming {
  int peer = 0;  // proven by the connection the message came on, not by anything in it
  Lane lane = Lane::kBulk;
  Frame header;
  Frame payload;
};

struct EndpointStats {
  std::uint64_t sent_messages = 0;
  std::uint64_t sent_bytes = 0;
  std::uint64_t received_messages = 0;
  std::uint64_t received_bytes = 0;
  std::uint64_t dropped_messages = 0;  // from strangers or expelled peers, or malformed
};

// Thread: one thread at a time uses an endpoint (it may be created on another); only wake() may be called from any
// thread. Connections carry messages one way: to exchange both ways, both sides connect to each other's address().
// Delivery: messages of one (peer, lane) arrive in the order sent, each at most once; between lanes there is no order.
// A message is lost only when its connection is, and then the sender, the receiver or both see the peer as lost.
class Endpoint {
 public:
  virtual ~Endpoint() = default;

  // This participant's number.
  virtual int self() const = 0;

  // Where peers reach this endpoint: a complete address (real port, no wildcard), to be given to their connect().
  [[nodiscard]] virtual base::Result<std::string> address() const = 0;

  // Opens the way to `peer`, which listens at `address`. Does not need the peer's thread to be inside its endpoint.
  // Retries until the deadline while nobody listens there; wake() ends it with kAborted. kIo (or kInvalidArgument for an address that can never
  // work) names the address and what to do. A peer that refuses us later (wrong token, expelled) shows as lost.
  [[nodiscard]] virtual base::Status connect(int peer, const std::string& address, base::Deadline deadline) = 0;

  // A buffer to be filled and passed to send(); same as Frame::allocate() unless a transport knows better memory.
  virtual Frame allocate(std::size_t bytes) { return Frame::allocate(bytes); }

  // Queues a message; returns before it has arrived. Frames are consumed, also on failure. Waits only while too many
  // bytes for this peer and lane are still queued, and keeps receiving meanwhile, so that everybody may send to
  // everybody before receiving. Errors: kTimeout (deadline), kPeerLost, kAborted (wake() was called or endpoint
  // closed), kInvalidArgument (not connected, or larger than the maximum message size).
  [[nodiscard]] virtual base::Status send(int peer, Lane lane, Frame header, Frame payload, base::Deadline deadline) = 0;

  // The next message, urgent ones first. nullopt: the deadline passed or wake() was called. An error is either
  // kPeerLost, reported once per lost peer after every message already here has been returned; the endpoint stays
  // usable for the others; or kAborted: the endpoint is closed.
  [[nodiscard]] virtual base::Result<std::optional<Incoming>> receive(base::Deadline deadline) = 0;

  // From any thread: the current receive() or the next one returns nullopt at once, even if messages wait; a send()
  // that is waiting returns kAborted.
  virtual void wake() = 0;

  // Drops the connection, what is queued to the peer and what still comes from it, for ever: a participant number
  // does not come back in the life of an endpoint. Not reported by receive(). Unknown peers may be expelled too.
  virtual void expel(int peer) = 0;

  // Peers that were connected and are gone: lost or expelled, in increasing order.
  virtual std::vector<int> lost_peers() const = 0;

  virtual EndpointStats stats() const = 0;

  // Sends what is queued for at most the transport's linger time, then lets go of everything. Idempotent; also done by the
  // destructor.
  virtual void close() = 0;
};

}  // namespace tessera::transport
