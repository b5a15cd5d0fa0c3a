// The control channel between coordinator and worker: text (JSON) with optional binary blobs, in both directions over
// one connection. It has its own context and thread, so heartbeats do not wait for tensors. Large blobs still hold up
// what follows them on the same connection: send weights on a second client, or in pieces.
#pragma once

#include "base/clock.hpp"
#include "base/result.hpp"
#include "transport/frame.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace tessera::transport {

struct ControlOptions {
  std::size_t max_text_bytes = 8u << 20;
  std::size_t max_blob_bytes = std::size_t{1} << 30;
  std::size_t max_blobs = 64;
  int high_water_mark = 1000;  // messages per connection and direction
  int linger_ms = 1000;
  int handshake_ms = 3000;
  // Between I/O threads; 0 switches it off. Leave it off where large blobs travel: they delay it on a slow link.
  int heartbeat_interval_ms = 0;
  int heartbeat_timeout_ms = 2000;
  std::size_t max_peers = 256;  // a server forgets the one silent for longest to admit another, never whom it keeps

  [[nodiscard]] base::Status validate() const;
};

// Names one connection of a server; never reused in the life of the server.
using ControlPeer = std::uint64_t;

struct ControlIncoming {
  ControlPeer peer = 0;   // 0 at a client
  std::string peer_name;  // what the client calls itself: a claim, at most 64 printable characters
  std::string text;
  std::vector<Frame> blobs;
};

// Thread: one thread at a time; wake() from any.
class ControlServer {
 public:
  virtual ~ControlServer() = default;

  // Where clients connect: complete, with the real port.
  virtual const std::string& address() const = 0;

  // Errors: kPeerLost (that connection is gone), kTimeout (the peer does not take messages), kInvalidArgument (larger
  // than the limits).
  [[nodiscard]] virtual base::Status send(ControlPeer peer, std::string text, std::vector<Frame> blobs, base::Deadline deadline) = 0;

  // nullopt: the deadline passed or wake() was called. Never fails because of what a peer sends: garbage is dropped
  // and counted. A client that vanishes is not reported; silence is for the heartbeats above this layer to judge.
  [[nodiscard]] virtual base::Result<std::optional<ControlIncoming>> receive(base::Deadline deadline) = 0;

  virtual void wake() = 0;

  // The one peer that is never forgotten to admit another, however many come; 0: nobody.
  virtual void keep(ControlPeer peer) = 0;

  // Ignores everything further from this connection.
  virtual void drop(ControlPeer peer) = 0;

  virtual std::uint64_t dropped_messages() const = 0;
};

// Thread: one thread at a time; wake() from any.
class ControlClient {
 public:
  virtual ~ControlClient() = default;

  [[nodiscard]] virtual base::Status send(std::string text, std::vector<Frame> blobs, base::Deadline deadline) = 0;

  // nullopt: the deadline passed or wake() was called. kPeerLost when the connection broke; stays so.
  [[nodiscard]] virtual base::Result<std::optional<ControlIncoming>> receive(base::Deadline deadline) = 0;

  virtual void wake() = 0;

  virtual std::uint64_t dropped_messages() const = 0;
};

}  // namespace tessera::transport
