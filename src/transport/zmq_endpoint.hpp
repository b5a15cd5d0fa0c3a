// Endpoints over ZeroMQ: ipc:// and tcp://. One ROUTER listens; one DEALER per peer and lane sends.
//
// First frame of a connection: "TSHELLO1" | token 16 bytes | sender u32 LE | receiver u32 LE | lane u8.
// The ROUTER then takes that connection, and no other, for (sender, lane); everything from connections that did not
// introduce themselves is dropped and counted. All later messages are two frames: header, payload; or, where participants
// share memory and the payload lies there, three: header, an empty one, offset u64 LE | length u64 LE.
#pragma once

#include "transport/endpoint.hpp"
#include "transport/shared_memory.hpp"
#include "transport/token.hpp"

#include <memory>
#include <string>

namespace tessera::transport {

struct ZmqOptions {
  int self = 0;
  SessionToken token;
  std::string bind = "tcp://127.0.0.1:*";
  std::size_t max_message_bytes = std::size_t{1} << 30;  // per frame, both ways
  std::size_t max_queued_bytes = std::size_t{1} << 30;   // per peer and lane; send() waits beyond it
  int receive_high_water_mark = 1000;                    // messages per connection, then TCP holds the sender back
  int linger_ms = 1000;
  int handshake_ms = 3000;
  // A connection whose other side's I/O thread is silent for this long is lost (process stopped, cable cut).
  // Measured on the urgent lane, which bulk data cannot delay. 0 switches it off.
  int heartbeat_interval_ms = 500;
  int heartbeat_timeout_ms = 2000;
  int io_threads = 1;
  std::shared_ptr<SharedMemory> shared_memory;  // with the participants 0 .. sharers-1; may be null

  [[nodiscard]] base::Status validate() const;
};

// Binds within 5 s or fails with kIo / kInvalidArgument naming the address and what to do.
[[nodiscard]] base::Result<std::unique_ptr<Endpoint>> make_zmq_endpoint(const ZmqOptions& options);

}  // namespace tessera::transport
