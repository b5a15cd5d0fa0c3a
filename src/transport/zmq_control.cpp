#include "transport/zmq_control.hpp"

#include "transport/zmq_socket.hpp"

#include <algorithm>
#include <cerrno>
#include <deque>
#include <map>
#include <unordered_map>

namespace tessera::transport {
namespace {

using base::ErrorCode;

constexpr std::string_view kHelloMagic = "TSCTRL1";
constexpr std::size_t kMaxNameBytes = 64;
constexpr base::Milliseconds kBindTime(5000);
// A full queue of a ROUTER cannot be waited for by poll(): look again this often.
constexpr base::Milliseconds kRetryTime(2);

SocketLimits socket_limits(const ControlOptions& options) {
  SocketLimits limits;
  limits.max_frame_bytes = std::max(options.max_text_bytes, options.max_blob_bytes);
  limits.send_high_water_mark = options.high_water_mark;
  limits.receive_high_water_mark = options.high_water_mark;
  limits.linger_ms = options.linger_ms;
  limits.handshake_ms = options.handshake_ms;
  return limits;
}

base::Status check_size(const ControlOptions& options, const std::string& text, const std::vector<Frame>& blobs) {
  if (text.size() > options.max_text_bytes) {
    return base::error(ErrorCode::kInvalidArgument, "a control message of {} bytes is over the limit of {}", text.size(),
                       options.max_text_bytes);
  }
  if (blobs.size() > options.max_blobs) {
    return base::error(ErrorCode::kInvalidArgument, "a control message with {} blobs is over the limit of {}", blobs.size(),
                       options.max_blobs);
  }
  for (const auto& blob : blobs) {
    if (blob.size() > options.max_blob_bytes) {
      return base::error(ErrorCode::kInvalidArgument, "a blob of {} bytes is over the limit of {}", blob.size(), options.max_blob_bytes);
    }
  }
  return {};
}

enum class Sent { kYes, kFull, kNoSuchPeer };

// Sends [address] text blobs. Only the first part can fail: ZeroMQ accepts messages as a whole.
Sent send_message(zmq::socket_t& socket, const std::string* address, const std::string& text, std::vector<Frame>& blobs) {
  if (address != nullptr) {
    zmq::message_t to(address->data(), address->size());
    if (!send_part(socket, to, true)) return zmq_errno() == EHOSTUNREACH ? Sent::kNoSuchPeer : Sent::kFull;
  }
  zmq::message_t first(text.data(), text.size());
  if (!send_part(socket, first, !blobs.empty())) return Sent::kFull;
  for (auto& blob : blobs) {
    const bool more = &blob != &blobs.back();
    zmq::message_t part = to_message(std::move(blob));
    send_part(socket, part, more);
  }
  blobs.clear();
  return Sent::kYes;
}

// Text and blobs from parts[first...]; nothing if they break the limits.
std::optional<ControlIncoming> read_message(Parts& message, std::size_t first, const ControlOptions& options) {
  if (message.too_many || message.parts.size() <= first) return std::nullopt;
  if (message.parts[first].size() > options.max_text_bytes) return std::nullopt;
  ControlIncoming incoming;
  incoming.text = message.parts[first].to_string();
  for (std::size_t i = first + 1; i < message.parts.size(); ++i) {
    if (message.parts[i].size() > options.max_blob_bytes) return std::nullopt;
    incoming.blobs.push_back(to_frame(std::move(message.parts[i])));
  }
  return incoming;
}

class ZmqControlServer final : public ControlServer {
 public:
  explicit ZmqControlServer(const ControlOptions& options)
      : options_(options), context_(1), router_(make_socket(context_, zmq::socket_type::router, socket_limits(options))) {
    router_.set(zmq::sockopt::router_mandatory, true);
  }

  base::Status bind(const std::string& address) {
    TESSERA_ASSIGN(address_, bind_socket(router_, address, base::Deadline::after(kBindTime)));
    return {};
  }

  const std::string& address() const override { return address_; }
  void wake() override { wake_.set(); }
  std::uint64_t dropped_messages() const override { return dropped_; }

  base::Status send(ControlPeer peer, std::string text, std::vector<Frame> blobs, base::Deadline deadline) override {
    TESSERA_TRY(check_size(options_, text, blobs));
    while (true) {
      const auto client = clients_.find(peer);
      if (client == clients_.end()) return base::error(ErrorCode::kPeerLost, "control connection {} is gone", peer);
      const Sent sent = send_message(router_, &client->second.connection_id, text, blobs);
      if (sent == Sent::kYes) return {};
      if (sent == Sent::kNoSuchPeer) {
        auto lost = base::error(ErrorCode::kPeerLost, "'{}' closed its control connection", client->second.name);
        drop(peer);
        return lost;
      }
      if (deadline.passed()) {
        return base::error(ErrorCode::kTimeout, "'{}' does not take its control messages", client->second.name);
      }
      take_in();
      std::vector<zmq::pollitem_t> nothing;
      poll_until(nothing,
                 std::min(deadline, base::Deadline::after(kRetryTime), [](const auto& a, const auto& b) { return a.when() < b.when(); }));
    }
  }

  base::Result<std::optional<ControlIncoming>> receive(base::Deadline deadline) override {
    while (true) {
      if (wake_.clear()) return std::nullopt;
      if (!received_.empty()) {
        ControlIncoming incoming = std::move(received_.front());
        received_.pop_front();
        return incoming;
      }
      while (auto message = receive_parts(router_, options_.max_blobs + 2)) {
        if (auto incoming = take(*message)) return incoming;
        if (deadline.passed()) return std::nullopt;  // garbage must not keep us here
      }
      if (deadline.passed()) return std::nullopt;
      std::vector<zmq::pollitem_t> items = {{router_.handle(), 0, ZMQ_POLLIN, 0}, {nullptr, wake_.fd(), ZMQ_POLLIN, 0}};
      poll_until(items, deadline);
    }
  }

  void keep(ControlPeer peer) override { kept_ = peer; }

  void drop(ControlPeer peer) override {
    const auto client = clients_.find(peer);
    if (client == clients_.end()) return;
    by_connection_.erase(client->second.connection_id);
    clients_.erase(client);
    std::erase_if(received_, [&](const ControlIncoming& message) { return message.peer == peer; });
  }

 private:
  struct Client {
    std::string connection_id;
    std::string name;
    base::TimePoint last_heard;
  };

  // For receive(), while send() waits. ZeroMQ lets go of a connection that was closed, and of its full queue, only when all
  // that came on it has been looked at.
  void take_in() {
    while (received_.size() < static_cast<std::size_t>(options_.high_water_mark)) {
      auto message = receive_parts(router_, options_.max_blobs + 2);
      if (!message) return;
      if (auto incoming = take(*message)) received_.push_back(std::move(*incoming));
    }
  }

  std::optional<ControlIncoming> take(Parts& message) {
    std::string connection_id = message.parts[0].to_string();
    const auto known = by_connection_.find(connection_id);
    if (known == by_connection_.end()) {
      admit(std::move(connection_id), message);
      return std::nullopt;
    }
    Client& client = clients_.at(known->second);
    client.last_heard = base::Clock::now();
    auto incoming = read_message(message, 1, options_);
    if (!incoming) {
      ++dropped_;
      return std::nullopt;
    }
    incoming->peer = known->second;
    incoming->peer_name = client.name;
    return incoming;
  }

  void admit(std::string connection_id, const Parts& message) {
    const bool one_part = message.parts.size() == 2 && !message.too_many;
    const std::string_view hello = one_part ? message.parts[1].to_string_view() : std::string_view{};
    if (!hello.starts_with(kHelloMagic)) {
      ++dropped_;
      return;
    }
    zmq::message_t name(hello.data() + kHelloMagic.size(), hello.size() - kHelloMagic.size());
    if (clients_.size() >= options_.max_peers) {
      const auto order = [&](const auto& client) { return std::pair(client.first == kept_, client.second.last_heard); };
      const auto silent =
          std::min_element(clients_.begin(), clients_.end(), [&](const auto& a, const auto& b) { return order(a) < order(b); });
      drop(silent->first);
    }
    const ControlPeer peer = ++last_peer_;
    by_connection_.emplace(connection_id, peer);
    clients_.emplace(peer, Client{std::move(connection_id), printable(name, kMaxNameBytes), base::Clock::now()});
  }

  ControlOptions options_;
  zmq::context_t context_;
  Signal wake_;
  zmq::socket_t router_;
  std::string address_;
  std::map<ControlPeer, Client> clients_;
  std::unordered_map<std::string, ControlPeer> by_connection_;
  std::deque<ControlIncoming> received_;  // not yet returned by receive()
  ControlPeer last_peer_ = 0, kept_ = 0;
  std::uint64_t dropped_ = 0;
};

class ZmqControlClient final : public ControlClient {
 public:
  ZmqControlClient(const Address& resolved, const ControlOptions& options)
      : options_(options), context_(1), connection_(context_, limits(options), resolved), shown_(to_string(resolved)) {}

  base::Status establish(const std::string& name, base::Deadline deadline) {
    auto established = connection_.establish("the control port", wake_, deadline);
    if (!established) {
      connection_.discard();
      return established;
    }
    const std::string hello = std::string(kHelloMagic) + name.substr(0, kMaxNameBytes);
    zmq::message_t message(hello.data(), hello.size());
    send_part(connection_.socket(), message, false);  // the first message of a queue for at least one
    return {};
  }

  void wake() override { wake_.set(); }
  std::uint64_t dropped_messages() const override { return dropped_; }

  base::Status send(std::string text, std::vector<Frame> blobs, base::Deadline deadline) override {
    TESSERA_TRY(check_size(options_, text, blobs));
    while (true) {
      if (connection_.broken()) return lost();
      if (send_message(connection_.socket(), nullptr, text, blobs) == Sent::kYes) return {};
      if (deadline.passed()) {
        return base::error(ErrorCode::kTimeout, "{} does not take its control messages", shown_);
      }
      std::vector<zmq::pollitem_t> items;
      connection_.add_poll_items(items);
      items.front().events = ZMQ_POLLOUT;
      poll_until(items, deadline);
    }
  }

  base::Result<std::optional<ControlIncoming>> receive(base::Deadline deadline) override {
    while (true) {
      if (wake_.clear()) return std::nullopt;
      while (auto message = receive_parts(connection_.socket(), options_.max_blobs + 1)) {
        if (auto incoming = read_message(*message, 0, options_)) return incoming;
        ++dropped_;
      }
      if (connection_.broken()) return lost();
      if (deadline.passed()) return std::nullopt;
      std::vector<zmq::pollitem_t> items = {{nullptr, wake_.fd(), ZMQ_POLLIN, 0}};
      connection_.add_poll_items(items);
      poll_until(items, deadline);
    }
  }

 private:
  static SocketLimits limits(const ControlOptions& options) {
    SocketLimits limits = socket_limits(options);
    limits.heartbeat_interval_ms = options.heartbeat_interval_ms;
    limits.heartbeat_timeout_ms = options.heartbeat_timeout_ms;
    return limits;
  }

  tl::unexpected<base::Error> lost() {
    connection_.discard();
    return base::error(ErrorCode::kPeerLost, "the control connection to {} is closed or does not answer", shown_);
  }

  ControlOptions options_;
  zmq::context_t context_;
  Signal wake_;
  Connection connection_;
  std::string shown_;
  std::uint64_t dropped_ = 0;
};

}  // namespace

base::Status ControlOptions::validate() const {
  const auto refuse = [](std::string_view what) {
    return base::error(ErrorCode::kInvalidArgument, "bad control channel option: {}", what);
  };
  if (max_text_bytes < 1 || max_blob_bytes < 1) return refuse("byte limits must be at least 1");
  if (max_peers < 1) return refuse("the number of peers must be at least 1");
  if (high_water_mark < 1) return refuse("the high-water mark must be at least 1");
  if (linger_ms < 0 || linger_ms > 60'000) return refuse("linger must be 0 to 60000 ms");
  if (handshake_ms < 1 || handshake_ms > 60'000) return refuse("the handshake time must be 1 to 60000 ms");
  if (heartbeat_interval_ms < 0) return refuse("the heartbeat interval must be at least 0 ms");
  if (heartbeat_interval_ms > 0 && heartbeat_timeout_ms <= heartbeat_interval_ms) {
    return refuse("the heartbeat timeout must be longer than its interval");
  }
  return {};
}

base::Result<std::unique_ptr<ControlServer>> listen_control(const std::string& bind, const ControlOptions& options) try {
  TESSERA_TRY(options.validate());
  auto server = std::make_unique<ZmqControlServer>(options);
  TESSERA_TRY(server->bind(bind));
  return server;
} catch (const zmq::error_t& failure) {
  return base::error(ErrorCode::kIo, "cannot open sockets: {}", failure.what());
}

base::Result<std::unique_ptr<ControlClient>> connect_control(const std::string& address, const std::string& name, base::Deadline deadline,
                                                             const ControlOptions& options) try {
  TESSERA_TRY(options.validate());
  TESSERA_ASSIGN(const Address resolved, resolve_peer(address, deadline));
  auto client = std::make_unique<ZmqControlClient>(resolved, options);
  TESSERA_TRY(client->establish(name, deadline));
  return client;
} catch (const zmq::error_t& failure) {
  return base::error(ErrorCode::kIo, "cannot open sockets to {}: {}", address, failure.what());
}

}  // namespace tessera::transport
