#include "transport/zmq_socket.hpp"

#include "base/check.hpp"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace tessera::transport {
namespace {

using base::ErrorCode;

// Received frames up to this size are copied: they would keep ZeroMQ's whole read buffer alive, and are not aligned.
constexpr std::size_t kCopyBytes = 8192;

struct OwnedFrame {
  Frame frame;
  std::shared_ptr<QueuedBytes> queue;
  std::size_t charged_bytes;
};

void release_owned_frame(void*, void* hint) {
  std::unique_ptr<OwnedFrame> owned(static_cast<OwnedFrame*>(hint));
  if (owned->queue) owned->queue->remove(owned->charged_bytes);
}

// Whether somebody accepts connections on this path. ZeroMQ would unlink the path and take over silently.
bool listens_on(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), std::min(path.size(), sizeof(address.sun_path) - 1));
  if (address.sun_path[0] == '@') address.sun_path[0] = '\0';
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return false;
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size());
  const bool connected = ::connect(fd, reinterpret_cast<const sockaddr*>(&address), length) == 0 || errno == EAGAIN;
  ::close(fd);
  return connected;
}

std::string bind_advice(const Address& address, int failure) {
  const bool tcp = address.scheme == Scheme::kTcp;
  switch (failure) {
    case EADDRINUSE:
      return tcp ? "the port is in use; stop the other program or choose another port"
                 : "another program listens there; stop it or choose another path";
    case EADDRNOTAVAIL:
    case ENODEV:
      return "this machine has no such address; use one of its own (ip address) or *";
    case EACCES:
    case EPERM:
      return tcp ? "not permitted; use a port above 1023" : "not permitted; choose a directory you may write to";
    case ENOENT:
    case ENOTDIR:
      return "the directory does not exist";
    default:
      return zmq_strerror(failure);
  }
}

}  // namespace

Signal::Signal() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (fd_ < 0) throw zmq::error_t();
}

Signal::~Signal() { ::close(fd_); }

// The hint is raised after the write and lowered before the read. So a readable descriptor always gets its hint, and a
// hint without anything to read only costs one read.
void Signal::set() {
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = write(fd_, &one, sizeof(one));  // fails only when readable anyway
  hint_ = true;
}

bool Signal::clear() {
  if (!hint_.exchange(false)) return false;
  std::uint64_t count;
  return read(fd_, &count, sizeof(count)) == sizeof(count);
}

zmq::message_t to_message(Frame frame, std::shared_ptr<QueuedBytes> queue, std::size_t charged_bytes) {
  if (queue) queue->add(charged_bytes);
  auto owned = std::make_unique<OwnedFrame>(OwnedFrame{std::move(frame), std::move(queue), charged_bytes});
  const auto bytes = owned->frame.bytes();
  zmq::message_t message(bytes.data(), bytes.size(), release_owned_frame, owned.get());
  static_cast<void>(owned.release());  // the message has it now
  return message;
}

Frame to_frame(zmq::message_t message) {
  const bool aligned = reinterpret_cast<std::uintptr_t>(message.data()) % alignof(float) == 0;
  if (message.size() <= kCopyBytes || !aligned) {
    return Frame::copy_of({static_cast<const std::byte*>(message.data()), message.size()});
  }
  auto owner = std::make_unique<zmq::message_t>(std::move(message));
  auto* data = static_cast<std::byte*>(owner->data());
  const std::size_t size = owner->size();
  return {data, size, owner.release(), [](void* pointer) { delete static_cast<zmq::message_t*>(pointer); }};
}

bool receive_part(zmq::socket_t& socket, zmq::message_t& part) {
  while (zmq_msg_recv(part.handle(), socket.handle(), ZMQ_DONTWAIT) < 0) {
    if (errno != EINTR) return false;
  }
  return true;
}

bool send_part(zmq::socket_t& socket, zmq::message_t& part, bool more) {
  while (zmq_msg_send(part.handle(), socket.handle(), ZMQ_DONTWAIT | (more ? ZMQ_SNDMORE : 0)) < 0) {
    if (errno != EINTR) return false;
  }
  return true;
}

std::optional<Parts> receive_parts(zmq::socket_t& socket, std::size_t max_parts) {
  zmq::message_t part;
  if (!receive_part(socket, part)) return std::nullopt;
  Parts message;
  bool more = part.more();
  message.parts.push_back(std::move(part));
  while (more) {
    // A message's parts become visible together, so this never waits.
    zmq::message_t next;
    TESSERA_CHECK(receive_part(socket, next), "errno={}", errno);
    more = next.more();
    if (message.parts.size() < max_parts)
      message.parts.push_back(std::move(next));
    else
      message.too_many = true;
  }
  return message;
}

void poll_until(std::vector<zmq::pollitem_t>& items, base::Deadline deadline) {
  const auto wait = std::min<base::Milliseconds>(deadline.remaining(), base::Milliseconds(60'000));
  zmq_poll(items.data(), static_cast<int>(items.size()), static_cast<long>(wait.count()));
}

std::string printable(const zmq::message_t& text, std::size_t max_bytes) {
  std::string shown(static_cast<const char*>(text.data()), std::min(text.size(), max_bytes));
  std::replace_if(
      shown.begin(), shown.end(), [](char c) { return c < 0x20 || c > 0x7e; }, '?');
  return shown;
}

zmq::socket_t make_socket(zmq::context_t& context, zmq::socket_type type, const SocketLimits& limits) {
  zmq::socket_t socket(context, type);
  socket.set(zmq::sockopt::ipv6, true);
  socket.set(zmq::sockopt::maxmsgsize, static_cast<std::int64_t>(limits.max_frame_bytes));
  socket.set(zmq::sockopt::sndhwm, limits.send_high_water_mark);
  socket.set(zmq::sockopt::rcvhwm, limits.receive_high_water_mark);
  socket.set(zmq::sockopt::linger, limits.linger_ms);
  socket.set(zmq::sockopt::handshake_ivl, limits.handshake_ms);
  socket.set(zmq::sockopt::sndtimeo, 0);
  socket.set(zmq::sockopt::rcvtimeo, 0);
  socket.set(zmq::sockopt::reconnect_ivl, 50);
  socket.set(zmq::sockopt::reconnect_ivl_max, 200);
  socket.set(zmq::sockopt::tcp_keepalive, 1);
  socket.set(zmq::sockopt::tcp_keepalive_idle, 10);
  socket.set(zmq::sockopt::tcp_keepalive_intvl, 5);
  socket.set(zmq::sockopt::tcp_keepalive_cnt, 3);
  if (limits.heartbeat_interval_ms > 0) {
    socket.set(zmq::sockopt::heartbeat_ivl, limits.heartbeat_interval_ms);
    socket.set(zmq::sockopt::heartbeat_timeout, limits.heartbeat_timeout_ms);
    socket.set(zmq::sockopt::heartbeat_ttl, limits.heartbeat_timeout_ms);
  }
  return socket;
}

base::Result<std::string> bind_socket(zmq::socket_t& socket, const std::string& address, base::Deadline deadline) {
  TESSERA_ASSIGN(const Address wanted, parse_address(address));
  if (wanted.scheme == Scheme::kInproc) {
    return base::error(ErrorCode::kInvalidArgument, "cannot listen on {}: use tcp:// or ipc://", address);
  }
  // What is no host name may still be an interface ("eth0"), which ZeroMQ knows how to bind.
  const Address resolved = resolve(wanted, deadline).value_or(wanted);
  int failure = 0;
  if (resolved.scheme == Scheme::kIpc && resolved.path != "*" && listens_on(resolved.path))
    failure = EADDRINUSE;
  else if (zmq_bind(socket.handle(), to_string(resolved).c_str()) != 0)
    failure = zmq_errno();
  if (failure != 0) {
    return base::error(ErrorCode::kIo, "cannot listen on {}: {}", address, bind_advice(wanted, failure));
  }
  return socket.get(zmq::sockopt::last_endpoint);
}

base::Result<Address> resolve_peer(const std::string& address, base::Deadline deadline) {
  TESSERA_ASSIGN(const Address wanted, parse_address(address));
  if (wanted.scheme == Scheme::kInproc || wanted.host == "*" || wanted.port == "*" || wanted.path == "*") {
    return base::error(ErrorCode::kInvalidArgument, "cannot connect to {}: give the host and port, or the path", address);
  }
  return resolve(wanted, deadline);
}

Connection::Connection(zmq::context_t& context, const SocketLimits& limits, const Address& resolved)
    : address_(to_string(resolved)),
      socket_(make_socket(context, zmq::socket_type::dealer, limits)),
      monitor_(context, zmq::socket_type::pair) {
  static std::atomic<std::uint64_t> count{0};  // inproc names must differ within a context; nothing else depends on it
  const std::string events = fmt::format("inproc://connection-events-{}", count++);
  if (zmq_socket_monitor(socket_.handle(), events.c_str(), ZMQ_EVENT_ALL) != 0) throw zmq::error_t();
  monitor_.set(zmq::sockopt::linger, 0);
  monitor_.connect(events);
  socket_.connect(address_);
}

void Connection::read_events() {
  while (auto event = receive_parts(monitor_, 1)) {
    std::uint16_t what = 0;
    if (event->parts[0].size() < sizeof(what)) continue;
    std::memcpy(&what, event->parts[0].data(), sizeof(what));  // libzmq writes it in host order
    if (what == ZMQ_EVENT_CONNECTED && progress_ == Progress::kNothingListens) progress_ = Progress::kNoHandshake;
    if (what == ZMQ_EVENT_HANDSHAKE_SUCCEEDED && progress_ != Progress::kBroken) progress_ = Progress::kEstablished;
    if (what == ZMQ_EVENT_DISCONNECTED && progress_ == Progress::kEstablished) progress_ = Progress::kBroken;
  }
}

base::Status Connection::establish(const std::string& who, const Signal& wake, base::Deadline deadline) {
  while (true) {
    read_events();
    if (progress_ == Progress::kEstablished) return {};
    if (progress_ == Progress::kBroken) {
      return base::error(ErrorCode::kPeerLost, "{} at {} closed the connection at once", who, address_);
    }
    if (wake.is_set()) return base::error(ErrorCode::kAborted, "connecting to {} was abandoned", who);
    if (deadline.passed()) break;
    std::vector<zmq::pollitem_t> items = {{monitor_.handle(), 0, ZMQ_POLLIN, 0}, {nullptr, wake.fd(), ZMQ_POLLIN, 0}};
    poll_until(items, deadline);
  }
  const char* reason = progress_ == Progress::kNothingListens
                           ? "nothing listens there; start it, or check host, port and firewall"
                           : "something accepts connections there but does not speak our protocol; is it stopped, or "
                             "another program?";
  return base::error(ErrorCode::kIo, "cannot reach {} at {}: {}", who, address_, reason);
}

bool Connection::broken() {
  read_events();
  return progress_ == Progress::kBroken;
}

void Connection::add_poll_items(std::vector<zmq::pollitem_t>& items) {
  items.push_back({socket_.handle(), 0, ZMQ_POLLIN, 0});
  items.push_back({monitor_.handle(), 0, ZMQ_POLLIN, 0});
}

std::array<int, 2> Connection::descriptors() const {
  return {static_cast<int>(socket_.get(zmq::sockopt::fd)), static_cast<int>(monitor_.get(zmq::sockopt::fd))};
}

}  // namespace tessera::transport
