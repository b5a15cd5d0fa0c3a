#include "transport/zmq_endpoint.hpp"

#include "transport/zmq_socket.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <map>
#include <set>
#include <unordered_map>

namespace tessera::transport {
namespace {

using base::ErrorCode;

constexpr std::string_view kHelloMagic = "TSHELLO1";
constexpr int kMaxParticipant = 65535;
constexpr base::Milliseconds kBindTime(5000);
constexpr std::size_t kLeastSharedBytes = 32 << 10;  // below that the socket is as fast
// How often connections are looked at without an event of theirs.
constexpr base::Milliseconds kLookInterval(50);

struct Hello {
  SessionToken token;
  int sender = 0;
  int receiver = 0;
  Lane lane = Lane::kBulk;
};

// "TSHELLO1" | token 16 | sender u32 LE | receiver u32 LE | lane u8
constexpr std::size_t kHelloBytes = 8 + 16 + 4 + 4 + 1;

zmq::message_t encode_hello(const Hello& hello) {
  zmq::message_t message(kHelloBytes);
  auto* out = static_cast<unsigned char*>(message.data());
  std::memcpy(out, kHelloMagic.data(), 8);
  std::memcpy(out + 8, hello.token.bytes.data(), 16);
  for (unsigned i = 0; i < 4; ++i) {
    out[24 + i] = static_cast<unsigned char>(static_cast<unsigned>(hello.sender) >> (8 * i));
    out[28 + i] = static_cast<unsigned char>(static_cast<unsigned>(hello.receiver) >> (8 * i));
  }
  out[32] = static_cast<unsigned char>(hello.lane);
  return message;
}

std::optional<Hello> decode_hello(const zmq::message_t& message) {
  if (message.size() != kHelloBytes || std::memcmp(message.data(), kHelloMagic.data(), 8) != 0) return std::nullopt;
  const auto* in = static_cast<const unsigned char*>(message.data());
  Hello hello;
  std::memcpy(hello.token.bytes.data(), in + 8, 16);
  std::uint32_t sender = 0, receiver = 0;
  for (unsigned i = 0; i < 4; ++i) {
    sender |= std::uint32_t{in[24 + i]} << (8 * i);
    receiver |= std::uint32_t{in[28 + i]} << (8 * i);
  }
  if (sender > kMaxParticipant || receiver > kMaxParticipant || in[32] >= kLanes) return std::nullopt;
  hello.sender = static_cast<int>(sender);
  hello.receiver = static_cast<int>(receiver);
  hello.lane = static_cast<Lane>(in[32]);
  return hello;
}

// offset u64 LE | length u64 LE
constexpr std::size_t kPlaceBytes = 8 + 8;

zmq::message_t encode_place(const Place& place) {
  zmq::message_t message(kPlaceBytes);
  auto* out = static_cast<unsigned char*>(message.data());
  for (unsigned i = 0; i < 8; ++i) {
    out[i] = static_cast<unsigned char>(place.offset >> (8 * i));
    out[8 + i] = static_cast<unsigned char>(place.length >> (8 * i));
  }
  return message;
}

Place decode_place(const zmq::message_t& message) {
  const auto* in = static_cast<const unsigned char*>(message.data());
  Place place;
  for (unsigned i = 0; i < 8; ++i) {
    place.offset |= std::uint64_t{in[i]} << (8 * i);
    place.length |= std::uint64_t{in[8 + i]} << (8 * i);
  }
  return place;
}

struct OutgoingLane {
  std::unique_ptr<Connection> connection;
  std::shared_ptr<QueuedBytes> queued;
};
using OutgoingPeer = std::array<OutgoingLane, kLanes>;

struct IncomingLane {
  int peer = 0;
  Lane lane = Lane::kBulk;
};

class ZmqEndpoint final : public Endpoint {
 public:
  explicit ZmqEndpoint(const ZmqOptions& options)
      : options_(options),
        context_(options.io_threads),
        drained_(std::make_shared<Signal>()),
        router_(make_socket(context_, zmq::socket_type::router, limits(Lane::kBulk))) {
    if (options_.shared_memory) part_.emplace(options_.shared_memory, options_.self);
  }
  ~ZmqEndpoint() override { close(); }

  base::Status bind() {
    TESSERA_ASSIGN(address_, bind_socket(router_, options_.bind, base::Deadline::after(kBindTime)));
    return {};
  }

  int self() const override { return options_.self; }
  base::Result<std::string> address() const override { return address_; }
  base::Status connect(int peer, const std::string& address, base::Deadline deadline) override;
  Frame allocate(std::size_t bytes) override;
  base::Status send(int peer, Lane lane, Frame header, Frame payload, base::Deadline deadline) override;
  base::Result<std::optional<Incoming>> receive(base::Deadline deadline) override;
  void wake() override { wake_.set(); }
  void expel(int peer) override;
  std::vector<int> lost_peers() const override { return {lost_.begin(), lost_.end()}; }
  EndpointStats stats() const override { return stats_; }
  void close() override;

 private:
  SocketLimits limits(Lane lane) const;
  base::Result<OutgoingPeer> open_connections(int peer, const Address& resolved, base::Deadline deadline);
  base::Status wait_for_room(int peer, Lane lane, std::size_t bytes, base::Deadline deadline);
  void drop_connections(int peer);
  void lose(int peer, std::string reason);

  bool take_in();  // one message from the ROUTER; false if there is none
  void take_message(IncomingLane from, Parts message);
  base::Result<Frame> payload_of(int peer, Parts& message);
  void admit(std::string connection_id, const Parts& message);
  void refuse(const std::string& connection_id, std::string_view reason);
  void check_connections();
  void wait(base::Deadline deadline);  // may return early: callers look again

  ZmqOptions options_;
  zmq::context_t context_;
  Signal wake_;
  std::shared_ptr<Signal> drained_;
  zmq::socket_t router_;
  std::optional<SharedPart> part_;
  std::string address_;
  std::map<int, OutgoingPeer> outgoing_;
  std::unordered_map<std::string, IncomingLane> incoming_;  // by the ROUTER's own name for the connection
  std::array<std::deque<Incoming>, kLanes> received_;
  std::set<int> lost_;
  std::deque<base::Error> losses_;                                           // to be reported by receive()
  std::vector<zmq::pollitem_t> poll_items_;                                  // empty when connections have changed
  base::Deadline next_look_ = base::Deadline::after(base::Milliseconds(0));  // at all connections
  EndpointStats stats_;
  bool closed_ = false;
};

tl::unexpected<base::Error> closed_error() { return base::error(ErrorCode::kAborted, "the endpoint is closed"); }

SocketLimits ZmqEndpoint::limits(Lane lane) const {
  SocketLimits limits;
  limits.max_frame_bytes = options_.max_message_bytes;
  limits.send_high_water_mark = 0;  // bytes are counted instead, in QueuedBytes
  limits.receive_high_water_mark = options_.receive_high_water_mark;
  limits.linger_ms = options_.linger_ms;
  limits.handshake_ms = options_.handshake_ms;
  limits.heartbeat_interval_ms = lane == Lane::kUrgent ? options_.heartbeat_interval_ms : 0;
  limits.heartbeat_timeout_ms = options_.heartbeat_timeout_ms;
  return limits;
}

base::Status ZmqEndpoint::connect(int peer, const std::string& address, base::Deadline deadline) {
  if (closed_) return closed_error();
  if (peer == options_.self || peer < 0 || peer > kMaxParticipant || outgoing_.contains(peer) || lost_.contains(peer)) {
    return base::error(ErrorCode::kInvalidArgument,
                       "participant {} cannot connect to participant {} (itself, connected "
                       "already, or lost)",
                       options_.self, peer);
  }
  TESSERA_ASSIGN(const Address resolved, resolve_peer(address, deadline));
  TESSERA_ASSIGN(OutgoingPeer lanes, open_connections(peer, resolved, deadline));
  outgoing_.emplace(peer, std::move(lanes));
  poll_items_.clear();
  return {};
}

base::Result<OutgoingPeer> ZmqEndpoint::open_connections(int peer, const Address& resolved, base::Deadline deadline) try {
  OutgoingPeer lanes;
  for (std::size_t i = 0; i < kLanes; ++i) {
    lanes[i].connection = std::make_unique<Connection>(context_, limits(static_cast<Lane>(i)), resolved);
    lanes[i].queued = std::make_shared<QueuedBytes>(drained_);
  }
  for (std::size_t i = 0; i < kLanes; ++i) {
    const auto established = lanes[i].connection->establish(fmt::format("participant {}", peer), wake_, deadline);
    if (!established) {
      for (auto& lane : lanes) lane.connection->discard();
      return tl::unexpected(established.error());
    }
    auto hello = encode_hello({options_.token, options_.self, peer, static_cast<Lane>(i)});
    send_part(lanes[i].connection->socket(), hello, false);  // a fresh queue without limit takes it
  }
  return lanes;
} catch (const zmq::error_t& failure) {
  return base::error(ErrorCode::kIo, "cannot open sockets to participant {}: {}", peer, failure.what());
}

Frame ZmqEndpoint::allocate(std::size_t bytes) {
  if (part_ && bytes >= kLeastSharedBytes) {
    if (auto frame = part_->allocate(bytes)) return std::move(*frame);
  }
  return Frame::allocate(bytes);
}

base::Status ZmqEndpoint::send(int peer, Lane lane, Frame header, Frame payload, base::Deadline deadline) {
  const std::size_t bytes = header.size() + payload.size();
  const std::size_t limit = lane == Lane::kUrgent ? kMaxUrgentBytes : options_.max_message_bytes;
  if (bytes > limit) {
    return base::error(ErrorCode::kInvalidArgument, "a message of {} bytes is over the limit of {}", bytes, limit);
  }
  TESSERA_TRY(wait_for_room(peer, lane, bytes, deadline));
  const OutgoingLane& out = outgoing_.at(peer)[static_cast<std::size_t>(lane)];
  zmq::message_t first(header.data(), header.size());  // a few bytes: copying is cheaper than handing over
  const std::optional<Place> place = part_ ? part_->lend(payload, peer) : std::nullopt;
  zmq::message_t last = place ? encode_place(*place) : to_message(std::move(payload), out.queued, bytes);
  zmq::message_t nothing;
  zmq::socket_t& socket = out.connection->socket();
  if (!send_part(socket, first, true) || (place && !send_part(socket, nothing, true)) || !send_part(socket, last, false)) {
    return base::error(ErrorCode::kIo, "cannot send to participant {}: {}", peer, zmq_strerror(zmq_errno()));
  }
  ++stats_.sent_messages;
  stats_.sent_bytes += bytes;
  return {};
}

base::Status ZmqEndpoint::wait_for_room(int peer, Lane lane, std::size_t bytes, base::Deadline deadline) {
  while (true) {
    if (closed_) return closed_error();
    if (lost_.contains(peer)) return base::error(ErrorCode::kPeerLost, "participant {} is lost", peer);
    const auto found = outgoing_.find(peer);
    if (found == outgoing_.end()) {
      return base::error(ErrorCode::kInvalidArgument, "participant {} is not connected to participant {}", options_.self, peer);
    }
    // Shared: the peer may be lost, and its connections gone, while we take in messages below.
    const std::shared_ptr<QueuedBytes> queued = found->second[static_cast<std::size_t>(lane)].queued;
    // A message larger than the limit still passes, alone.
    const auto has_room = [&] { return queued->bytes() == 0 || queued->bytes() + bytes <= options_.max_queued_bytes; };
    if (has_room()) return {};
    if (wake_.is_set()) return base::error(ErrorCode::kAborted, "sending to participant {} was abandoned", peer);
    if (deadline.passed()) {
      return base::error(ErrorCode::kTimeout, "participant {} does not take its messages: {} bytes wait", peer, queued->bytes());
    }
    // Everybody may be waiting here at once: take in what others send, or nobody's queue would ever shrink.
    while (take_in()) {
    }
    queued->await_remove();
    if (!has_room() && !lost_.contains(peer)) wait(deadline);
  }
}

base::Result<std::optional<Incoming>> ZmqEndpoint::receive(base::Deadline deadline) {
  while (true) {
    if (closed_) return closed_error();
    if (wake_.clear()) return std::nullopt;
    // The ROUTER takes turns between connections: a few more than one round finds any urgent message that is here.
    for (std::size_t looks = 2 * incoming_.size() + 2; looks > 0 && received_[0].empty() && take_in(); --looks) {
    }
    for (auto& queue : received_) {
      if (queue.empty()) continue;
      Incoming message = std::move(queue.front());
      queue.pop_front();
      ++stats_.received_messages;
      stats_.received_bytes += message.header.size() + message.payload.size();
      return message;
    }
    if (!losses_.empty()) {
      base::Error loss = std::move(losses_.front());
      losses_.pop_front();
      return tl::unexpected(std::move(loss));
    }
    if (deadline.passed()) return std::nullopt;
    wait(deadline);
  }
}

bool ZmqEndpoint::take_in() {
  auto message = receive_parts(router_, 4);
  if (!message) return false;
  std::string connection_id = message->parts[0].to_string();
  const auto known = incoming_.find(connection_id);
  if (known != incoming_.end())
    take_message(known->second, std::move(*message));
  else
    admit(std::move(connection_id), *message);
  return true;
}

void ZmqEndpoint::take_message(IncomingLane from, Parts message) {
  auto payload = payload_of(from.peer, message);
  if (!payload) {
    ++stats_.dropped_messages;
    lose(from.peer, fmt::format("participant {} sent a malformed message", from.peer));
    std::erase_if(incoming_, [&](const auto& entry) { return entry.second.peer == from.peer; });
    return;
  }
  received_[static_cast<std::size_t>(from.lane)].push_back(
      {from.peer, from.lane, to_frame(std::move(message.parts[1])), std::move(*payload)});
}

base::Result<Frame> ZmqEndpoint::payload_of(int peer, Parts& message) {
  if (message.parts.size() == 3 && !message.too_many) return to_frame(std::move(message.parts[2]));
  const bool is_place =
      part_ && message.parts.size() == 4 && !message.too_many && message.parts[2].size() == 0 && message.parts[3].size() == kPlaceBytes;
  if (!is_place) return base::error(ErrorCode::kProtocol, "a message of {} parts", message.parts.size());
  return options_.shared_memory->borrow(options_.self, peer, decode_place(message.parts[3]));
}

// A connection's first message. Strangers get no answer; a peer with the right token hears why it is refused.
void ZmqEndpoint::admit(std::string connection_id, const Parts& message) {
  const auto hello = message.parts.size() == 2 && !message.too_many ? decode_hello(message.parts[1]) : std::nullopt;
  if (!hello) {
    ++stats_.dropped_messages;
    return;
  }
  const bool taken = std::any_of(incoming_.begin(), incoming_.end(),
                                 [&](const auto& entry) { return entry.second.peer == hello->sender && entry.second.lane == hello->lane; });
  std::string_view reason;
  if (!same_token(hello->token, options_.token))
    reason = "wrong session token";
  else if (hello->receiver != options_.self || hello->sender == options_.self)
    reason = "wrong participant number";
  else if (lost_.contains(hello->sender))
    reason = "this participant was lost or expelled before";
  else if (taken)
    reason = "this participant is connected already";
  if (!reason.empty()) {
    ++stats_.dropped_messages;
    refuse(connection_id, reason);
    return;
  }
  incoming_.emplace(std::move(connection_id), IncomingLane{hello->sender, hello->lane});
}

void ZmqEndpoint::refuse(const std::string& connection_id, std::string_view reason) {
  zmq::message_t to(connection_id.data(), connection_id.size());
  zmq::message_t text(reason.data(), reason.size());
  // A ROUTER drops what it cannot deliver, which is all right for a courtesy.
  if (send_part(router_, to, true)) send_part(router_, text, false);
}

void ZmqEndpoint::drop_connections(int peer) {
  const auto found = outgoing_.find(peer);
  if (found == outgoing_.end()) return;
  for (auto& lane : found->second) lane.connection->discard();
  if (part_) part_->forget(peer);
  outgoing_.erase(found);
  poll_items_.clear();
}

void ZmqEndpoint::lose(int peer, std::string reason) {
  drop_connections(peer);
  if (lost_.insert(peer).second) losses_.push_back({ErrorCode::kPeerLost, std::move(reason)});
}

void ZmqEndpoint::expel(int peer) {
  if (closed_ || peer == options_.self) return;
  drop_connections(peer);
  lost_.insert(peer);
  for (auto entry = incoming_.begin(); entry != incoming_.end();) {
    if (entry->second.peer != peer) {
      ++entry;
      continue;
    }
    refuse(entry->first, "this participant was expelled");
    entry = incoming_.erase(entry);
  }
  for (auto& queue : received_) {
    std::erase_if(queue, [&](const Incoming& message) { return message.peer == peer; });
  }
}

// Which outgoing connections have broken, or were refused by the other side in words.
void ZmqEndpoint::check_connections() {
  std::vector<std::pair<int, std::string>> found;
  for (auto& [peer, lanes] : outgoing_) {
    for (auto& lane : lanes) {
      if (const auto refusal = receive_parts(lane.connection->socket(), 1)) {
        found.emplace_back(peer, fmt::format("participant {} refused the connection: {}", peer, printable(refusal->parts[0], 200)));
      } else if (lane.connection->broken()) {
        found.emplace_back(peer, fmt::format("participant {} closed its connection or stopped answering", peer));
      }
    }
  }
  for (auto& [peer, reason] : found) lose(peer, std::move(reason));
}

// ZeroMQ asks the system several times about every socket it polls, so connections take part by their descriptors, which
// tell of new events only. An event that something else has met with (sending reads them, too) waits for the next look.
void ZmqEndpoint::wait(base::Deadline deadline) {
  if (poll_items_.empty()) {
    poll_items_ = {{router_.handle(), 0, ZMQ_POLLIN, 0}, {nullptr, wake_.fd(), ZMQ_POLLIN, 0}, {nullptr, drained_->fd(), ZMQ_POLLIN, 0}};
    for (auto& [peer, lanes] : outgoing_) {
      for (auto& lane : lanes) {
        for (const int fd : lane.connection->descriptors()) poll_items_.push_back({nullptr, fd, ZMQ_POLLIN, 0});
      }
    }
    next_look_ = base::Deadline::after(base::Milliseconds(0));
  }
  if (next_look_.passed()) {
    check_connections();
    next_look_ = base::Deadline::after(kLookInterval);
    return;  // a loss is to be reported, or the items have changed
  }
  poll_until(poll_items_, base::Deadline(std::min(deadline.when(), next_look_.when())));
  drained_->clear();
  const bool connection_event =
      std::any_of(poll_items_.begin() + 3, poll_items_.end(), [](const zmq::pollitem_t& item) { return item.revents != 0; });
  if (connection_event) check_connections();
}

void ZmqEndpoint::close() {
  if (std::exchange(closed_, true)) return;
  poll_items_.clear();
  outgoing_.clear();
  incoming_.clear();
  for (auto& queue : received_) queue.clear();
  router_.set(zmq::sockopt::linger, 0);  // nothing but refusals
  router_.close();
  context_.close();
}

}  // namespace

base::Status ZmqOptions::validate() const {
  const auto refuse = [](std::string_view what) { return base::error(ErrorCode::kInvalidArgument, "bad transport option: {}", what); };
  if (self < 0 || self > kMaxParticipant) return refuse("the participant number must be 0 to 65535");
  if (max_message_bytes < 1 || max_queued_bytes < 1) return refuse("byte limits must be at least 1");
  if (receive_high_water_mark < 1) return refuse("the receive high-water mark must be at least 1");
  if (linger_ms < 0 || linger_ms > 60'000) return refuse("linger must be 0 to 60000 ms");
  if (handshake_ms < 1 || handshake_ms > 60'000) return refuse("the handshake time must be 1 to 60000 ms");
  if (heartbeat_interval_ms < 0) return refuse("the heartbeat interval must be at least 0 ms");
  if (heartbeat_interval_ms > 0 && heartbeat_timeout_ms <= heartbeat_interval_ms) {
    return refuse("the heartbeat timeout must be longer than its interval");
  }
  if (shared_memory && self >= shared_memory->sharers()) return refuse("the shared memory has no part for this participant");
  if (io_threads < 1 || io_threads > 16) return refuse("I/O threads must be 1 to 16");
  return {};
}

base::Result<std::unique_ptr<Endpoint>> make_zmq_endpoint(const ZmqOptions& options) try {
  TESSERA_TRY(options.validate());
  auto endpoint = std::make_unique<ZmqEndpoint>(options);
  TESSERA_TRY(endpoint->bind());
  return endpoint;
} catch (const zmq::error_t& failure) {
  return base::error(ErrorCode::kIo, "cannot open sockets: {}", failure.what());
}

}  // namespace tessera::transport
