// What the endpoint and the control channel share: sockets with explicit limits, errors in words, frames that travel
// without a copy, and a wake-up that poll() can wait for.
#pragma once

#include "base/clock.hpp"
#include "base/result.hpp"
#include "transport/address.hpp"
#include "transport/frame.hpp"

#include <array>
#include <atomic>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>
#include <zmq.hpp>

namespace tessera::transport {

struct SocketLimits {
  std::size_t max_frame_bytes = 0;
  int send_high_water_mark = 1000;  // messages; 0 = no limit
  int receive_high_water_mark = 1000;
  int linger_ms = 1000;
  int handshake_ms = 3000;
  int heartbeat_interval_ms = 0;  // 0 = none
  int heartbeat_timeout_ms = 2000;
};

// An eventfd: set() from any thread, seen by poll() until clear().
class Signal {
 public:
  Signal();  // throws zmq::error_t when out of file descriptors
  ~Signal();
  Signal(const Signal&) = delete;
  Signal& operator=(const Signal&) = delete;

  void set();
  bool is_set() const { return hint_.load(); }
  bool clear();  // whether it was set
  int fd() const { return fd_; }

 private:
  int fd_;
  std::atomic<bool> hint_{false};  // saves a system call per look; the descriptor is the truth
};

// Counts the bytes handed to ZeroMQ and not yet sent; `drained` is set after a decrease somebody waits for.
class QueuedBytes {
 public:
  explicit QueuedBytes(std::shared_ptr<Signal> drained) : drained_(std::move(drained)) {}

  std::size_t bytes() const { return bytes_.load(); }
  void add(std::size_t bytes) { bytes_ += bytes; }
  void remove(std::size_t bytes) {
    bytes_ -= bytes;
    if (awaited_.exchange(false)) drained_->set();
  }
  // The next remove() sets the signal. Look at bytes() again after calling this and before waiting.
  void await_remove() { awaited_ = true; }

 private:
  std::atomic<std::size_t> bytes_{0};
  std::atomic<bool> awaited_{false};
  std::shared_ptr<Signal> drained_;
};

// The message owns the frame; when ZeroMQ has sent it, `charged_bytes` leave the queue (if there is one).
zmq::message_t to_message(Frame frame, std::shared_ptr<QueuedBytes> queue = nullptr, std::size_t charged_bytes = 0);
Frame to_frame(zmq::message_t message);

// One part, if one is there. Never blocks.
bool receive_part(zmq::socket_t& socket, zmq::message_t& part);

// False if the socket's queue is full or it has no such peer (errno says which). Never blocks.
bool send_part(zmq::socket_t& socket, zmq::message_t& part, bool more);

// All parts of a message; at most `max_parts` are kept, the rest read and forgotten (`too_many`).
struct Parts {
  std::vector<zmq::message_t> parts;
  bool too_many = false;
};
std::optional<Parts> receive_parts(zmq::socket_t& socket, std::size_t max_parts);

// Waits for any item or the deadline, also returns early on signals (EINTR): callers look again.
void poll_until(std::vector<zmq::pollitem_t>& items, base::Deadline deadline);

// Printable ASCII only, at most `max_bytes`: text from strangers that will be shown.
std::string printable(const zmq::message_t& text, std::size_t max_bytes);

// `socket` created with these limits.
zmq::socket_t make_socket(zmq::context_t& context, zmq::socket_type type, const SocketLimits& limits);

// Listens and returns the complete address. Never takes over an ipc path on which somebody listens.
[[nodiscard]] base::Result<std::string> bind_socket(zmq::socket_t& socket, const std::string& address, base::Deadline deadline);

// The complete address of a listener to connect to, resolved.
[[nodiscard]] base::Result<Address> resolve_peer(const std::string& address, base::Deadline deadline);

// A DEALER connected to one listener, and what became of that connection. It never reconnects unnoticed: what was
// queued when a connection breaks may or may not have arrived, so the owner must know.
class Connection {
 public:
  // Starts connecting to an address from resolve().
  Connection(zmq::context_t& context, const SocketLimits& limits, const Address& resolved);
  // Monitoring ends before the socket that listens to it does: events are written by the context's I/O thread, and to a
  // listener that has gone it would wait for ever, with every other connection of the context behind it.
  ~Connection() { zmq_socket_monitor(socket_.handle(), nullptr, 0); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Waits until the other side speaks our protocol; `who` starts the error: "cannot reach <who> at <address>: ...".
  // kAborted if `wake` is set meanwhile.
  [[nodiscard]] base::Status establish(const std::string& who, const Signal& wake, base::Deadline deadline);

  // After establish(): takes note of events; true once the connection has broken.
  bool broken();

  zmq::socket_t& socket() { return socket_; }
  void add_poll_items(std::vector<zmq::pollitem_t>& items);
  // Readable when something has happened since the last call of broken() or of a function of the socket.
  std::array<int, 2> descriptors() const;

  // Drops what is queued instead of lingering.
  void discard() { socket_.set(zmq::sockopt::linger, 0); }

 private:
  enum class Progress { kNothingListens, kNoHandshake, kEstablished, kBroken };
  void read_events();

  std::string address_;
  zmq::socket_t socket_;
  zmq::socket_t monitor_;
  Progress progress_ = Progress::kNothingListens;
};

}  // namespace tessera::transport
