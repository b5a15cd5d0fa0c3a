#include "transport/inproc.hpp"

#include "base/check.hpp"

#include <algorithm>
#include <array>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <set>

namespace tessera::transport {
namespace {

using base::ErrorCode;

// What others may touch of an endpoint, under the hub's mutex.
struct Node {
  std::condition_variable changed;
  std::array<std::deque<Incoming>, kLanes> incoming;
  std::map<std::pair<int, int>, std::size_t> queued_bytes;  // by (sender, lane)
  std::set<int> connected;                                  // where this node sends to
  std::set<int> lost;
  std::set<int> expelled;
  std::deque<base::Error> losses;  // to be reported by receive()
  EndpointStats stats;
  bool woken = false;
  bool closed = false;
  bool sending = false;  // waits in send(): takes in everything, so that no ring of senders waits for itself
};

struct Hub {
  explicit Hub(const InprocOptions& hub_options) : options(hub_options) {}
  InprocOptions options;
  std::mutex mutex;
  std::map<int, Node> nodes;
};

std::string inproc_address(int participant) { return fmt::format("inproc://{}", participant); }

void lose(Node& node, int peer, std::string reason) {
  if (node.connected.erase(peer) == 0) return;
  node.lost.insert(peer);
  node.losses.push_back({ErrorCode::kPeerLost, std::move(reason)});
  node.changed.notify_all();
}

class InprocEndpoint final : public Endpoint {
 public:
  InprocEndpoint(std::shared_ptr<Hub> hub, int self) : hub_(std::move(hub)), self_(self), node_(hub_->nodes.at(self)) {}
  ~InprocEndpoint() override { close(); }

  int self() const override { return self_; }
  base::Result<std::string> address() const override { return inproc_address(self_); }

  base::Status connect(int peer, const std::string& address, base::Deadline) override {
    std::lock_guard lock(hub_->mutex);
    if (node_.closed) return closed_error();
    if (peer == self_ || node_.connected.contains(peer) || node_.lost.contains(peer)) {
      return base::error(ErrorCode::kInvalidArgument,
                         "participant {} cannot connect to participant {} (itself, connected "
                         "already, or lost)",
                         self_, peer);
    }
    const auto found = hub_->nodes.find(peer);
    if (found == hub_->nodes.end() || found->second.closed || address != inproc_address(peer)) {
      return base::error(ErrorCode::kIo, "cannot reach participant {} at {}: nobody listens there", peer, address);
    }
    node_.connected.insert(peer);
    if (found->second.expelled.contains(self_)) lose(node_, peer, refusal(peer));
    return {};
  }

  base::Status send(int peer, Lane lane, Frame header, Frame payload, base::Deadline deadline) override {
    const std::size_t bytes = header.size() + payload.size();
    const std::size_t limit = lane == Lane::kUrgent ? kMaxUrgentBytes : hub_->options.max_message_bytes;
    if (bytes > limit) {
      return base::error(ErrorCode::kInvalidArgument, "a message of {} bytes is over the limit of {}", bytes, limit);
    }
    std::unique_lock lock(hub_->mutex);
    TESSERA_TRY(wait_for_room(lock, peer, lane, bytes, deadline));
    Node& to = hub_->nodes.at(peer);
    to.queued_bytes[{self_, static_cast<int>(lane)}] += bytes;
    to.incoming[static_cast<std::size_t>(lane)].push_back({self_, lane, std::move(header), std::move(payload)});
    to.changed.notify_all();
    ++node_.stats.sent_messages;
    node_.stats.sent_bytes += bytes;
    return {};
  }

  base::Result<std::optional<Incoming>> receive(base::Deadline deadline) override {
    std::unique_lock lock(hub_->mutex);
    while (true) {
      if (node_.closed) return closed_error();
      if (std::exchange(node_.woken, false)) return std::nullopt;
      for (auto& queue : node_.incoming) {
        if (!queue.empty()) return take(queue);
      }
      if (!node_.losses.empty()) {
        base::Error loss = std::move(node_.losses.front());
        node_.losses.pop_front();
        return tl::unexpected(std::move(loss));
      }
      if (deadline.passed()) return std::nullopt;
      node_.changed.wait_until(lock, deadline.when());
    }
  }

  void wake() override {
    std::lock_guard lock(hub_->mutex);
    node_.woken = true;
    node_.changed.notify_all();
  }

  void expel(int peer) override {
    std::lock_guard lock(hub_->mutex);
    if (peer == self_ || !node_.expelled.insert(peer).second) return;
    node_.lost.insert(peer);
    node_.connected.erase(peer);
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      std::erase_if(node_.incoming[lane], [&](const Incoming& message) { return message.peer == peer; });
      node_.queued_bytes.erase({peer, static_cast<int>(lane)});
    }
    const auto found = hub_->nodes.find(peer);
    if (found == hub_->nodes.end()) return;
    lose(found->second, self_, refusal(self_));
    for (auto& queue : found->second.incoming) {
      std::erase_if(queue, [&](const Incoming& message) { return message.peer == self_; });
    }
    for (int lane = 0; lane < kLanes; ++lane) found->second.queued_bytes.erase({self_, lane});
  }

  std::vector<int> lost_peers() const override {
    std::lock_guard lock(hub_->mutex);
    return {node_.lost.begin(), node_.lost.end()};
  }

  EndpointStats stats() const override {
    std::lock_guard lock(hub_->mutex);
    return node_.stats;
  }

  void close() override {
    std::lock_guard lock(hub_->mutex);
    if (std::exchange(node_.closed, true)) return;
    for (auto& queue : node_.incoming) queue.clear();
    node_.changed.notify_all();
    for (auto& [number, node] : hub_->nodes) {
      lose(node, self_, fmt::format("participant {} closed its connection", self_));
    }
  }

 private:
  static tl::unexpected<base::Error> closed_error() { return base::error(ErrorCode::kAborted, "the endpoint is closed"); }
  static std::string refusal(int peer) { return fmt::format("participant {} refused the connection: this participant was expelled", peer); }

  base::Status check_connected(int peer) const {
    if (node_.closed) return closed_error();
    if (node_.lost.contains(peer)) return base::error(ErrorCode::kPeerLost, "participant {} is lost", peer);
    if (!node_.connected.contains(peer)) {
      return base::error(ErrorCode::kInvalidArgument, "participant {} is not connected to participant {}", self_, peer);
    }
    return {};
  }

  // A message larger than the limit still passes, alone.
  bool has_room(int peer, Lane lane, std::size_t bytes) const {
    Node& to = hub_->nodes.at(peer);
    const std::size_t queued = to.queued_bytes[{self_, static_cast<int>(lane)}];
    return queued == 0 || queued + bytes <= hub_->options.max_queued_bytes || to.sending;
  }

  base::Status wait_for_room(std::unique_lock<std::mutex>& lock, int peer, Lane lane, std::size_t bytes, base::Deadline deadline) {
    while (true) {
      TESSERA_TRY(check_connected(peer));
      if (has_room(peer, lane, bytes)) return {};
      if (node_.woken) return base::error(ErrorCode::kAborted, "sending to participant {} was abandoned", peer);
      if (deadline.passed()) {
        return base::error(ErrorCode::kTimeout, "participant {} does not take its messages: {} bytes wait", peer,
                           hub_->nodes.at(peer).queued_bytes[{self_, static_cast<int>(lane)}]);
      }
      node_.sending = true;
      for (auto& [number, node] : hub_->nodes) {
        if (node.sending && number != self_) node.changed.notify_all();
      }
      node_.changed.wait_until(lock, deadline.when());
      node_.sending = false;
    }
  }

  Incoming take(std::deque<Incoming>& queue) {
    Incoming message = std::move(queue.front());
    queue.pop_front();
    const std::size_t bytes = message.header.size() + message.payload.size();
    node_.queued_bytes[{message.peer, static_cast<int>(message.lane)}] -= bytes;
    ++node_.stats.received_messages;
    node_.stats.received_bytes += bytes;
    Node& from = hub_->nodes.at(message.peer);
    if (from.sending) from.changed.notify_all();
    return message;
  }

  std::shared_ptr<Hub> hub_;
  int self_;
  Node& node_;
};

}  // namespace

std::vector<std::unique_ptr<Endpoint>> make_inproc_endpoints(const std::vector<int>& participants, const InprocOptions& options) {
  auto hub = std::make_shared<Hub>(options);
  for (const int participant : participants) hub->nodes[participant];
  TESSERA_CHECK(hub->nodes.size() == participants.size(), "participants={} distinct={}", participants.size(), hub->nodes.size());
  std::vector<std::unique_ptr<Endpoint>> endpoints;
  for (const int participant : participants) endpoints.push_back(std::make_unique<InprocEndpoint>(hub, participant));
  return endpoints;
}

std::vector<std::unique_ptr<Endpoint>> make_inproc_endpoints(int count, const InprocOptions& options) {
  std::vector<int> participants;
  for (int participant = 0; participant < count; ++participant) participants.push_back(participant);
  return make_inproc_endpoints(participants, options);
}

}  // namespace tessera::transport
