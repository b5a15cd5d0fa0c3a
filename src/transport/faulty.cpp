#include "transport/faulty.hpp"

#include <algorithm>
#include <deque>
#include <map>
#include <random>

namespace tessera::transport {
namespace {

struct Delayed {
  base::TimePoint due;
  Frame header;
  Frame payload;
  base::Deadline deadline;
};

using Destination = std::pair<int, Lane>;

class Faulty final : public FaultyEndpoint {
 public:
  Faulty(std::unique_ptr<Endpoint> inner, std::vector<FaultRule> rules, std::uint64_t seed)
      : inner_(std::move(inner)), rules_(std::move(rules)), random_(seed) {}

  int self() const override { return inner_->self(); }
  base::Result<std::string> address() const override { return inner_->address(); }
  base::Status connect(int peer, const std::string& address, base::Deadline deadline) override {
    return inner_->connect(peer, address, deadline);
  }
  Frame allocate(std::size_t bytes) override { return inner_->allocate(bytes); }
  void wake() override { inner_->wake(); }
  std::vector<int> lost_peers() const override { return inner_->lost_peers(); }
  EndpointStats stats() const override { return inner_->stats(); }
  const FaultCounts& fault_counts() const override { return counts_; }

  void expel(int peer) override {
    std::erase_if(delayed_, [&](const auto& entry) { return entry.first.first == peer; });
    inner_->expel(peer);
  }

  void close() override {
    delayed_.clear();
    inner_->close();
  }

  base::Status send(int peer, Lane lane, Frame header, Frame payload, base::Deadline deadline) override {
    release_due();
    const std::uint64_t message = next_message_++;
    base::Milliseconds delay{0};
    bool twice = false;
    for (const FaultRule& rule : rules_) {
      if (!applies(rule, message, peer, lane)) continue;
      ++counts_[static_cast<std::size_t>(rule.fault)];
      switch (rule.fault) {
        case Fault::kDrop:
          return {};
        case Fault::kDelay:
          delay += rule.delay;
          break;
        case Fault::kDuplicate:
          twice = true;
          break;
        case Fault::kCorrupt:
          corrupt(choose(header, payload));
          break;
        case Fault::kTruncate:
          truncate(choose(header, payload));
          break;
      }
    }
    if (twice) {
      TESSERA_TRY(pass_on(peer, lane, Frame::copy_of(std::as_const(header).bytes()), Frame::copy_of(std::as_const(payload).bytes()), delay,
                          deadline));
    }
    return pass_on(peer, lane, std::move(header), std::move(payload), delay, deadline);
  }

  base::Result<std::optional<Incoming>> receive(base::Deadline deadline) override {
    while (true) {
      release_due();
      base::TimePoint until = deadline.when();
      for (const auto& [destination, queue] : delayed_) until = std::min(until, queue.front().due);
      auto received = inner_->receive(base::Deadline(until));
      const bool only_a_message_fell_due = received && !*received && until < deadline.when() && base::Clock::now() >= until;
      if (!only_a_message_fell_due) return received;
    }
  }

 private:
  bool applies(const FaultRule& rule, std::uint64_t message, int peer, Lane lane) {
    if (rule.peer.value_or(peer) != peer || rule.lane.value_or(lane) != lane) return false;
    if (message < rule.first_message || message > rule.last_message) return false;
    return static_cast<double>(random_() >> 11) * 0x1p-53 < rule.probability;
  }

  // Uniform in [0, count); the bias of the remainder does not matter for counts this small.
  std::size_t pick(std::size_t count) { return static_cast<std::size_t>(random_() % count); }

  Frame& choose(Frame& header, Frame& payload) {
    if (payload.empty()) return header;
    return header.empty() || pick(2) == 0 ? payload : header;
  }

  void corrupt(Frame& frame) {
    if (frame.empty()) return;
    frame.data()[pick(frame.size())] ^= static_cast<std::byte>(1u << pick(8));
  }

  void truncate(Frame& frame) {
    if (!frame.empty()) frame.shrink(pick(frame.size()));
  }

  base::Status pass_on(int peer, Lane lane, Frame header, Frame payload, base::Milliseconds delay, base::Deadline deadline) {
    const Destination destination{peer, lane};
    if (delay.count() == 0 && !delayed_.contains(destination)) {
      return inner_->send(peer, lane, std::move(header), std::move(payload), deadline);
    }
    const base::TimePoint due = base::Clock::now() + delay;
    delayed_[destination].push_back({due, std::move(header), std::move(payload), base::Deadline(std::max(due, deadline.when()))});
    return {};
  }

  // A delayed message whose peer is gone by now is dropped: its sender has long been told that it was queued.
  void release_due() {
    for (auto entry = delayed_.begin(); entry != delayed_.end();) {
      auto& [destination, queue] = *entry;
      while (!queue.empty() && queue.front().due <= base::Clock::now()) {
        Delayed message = std::move(queue.front());
        queue.pop_front();
        static_cast<void>(
            inner_->send(destination.first, destination.second, std::move(message.header), std::move(message.payload), message.deadline));
      }
      entry = queue.empty() ? delayed_.erase(entry) : std::next(entry);
    }
  }

  std::unique_ptr<Endpoint> inner_;
  std::vector<FaultRule> rules_;
  std::mt19937_64 random_;
  std::map<Destination, std::deque<Delayed>> delayed_;
  std::uint64_t next_message_ = 0;
  FaultCounts counts_{};
};

}  // namespace

std::unique_ptr<FaultyEndpoint> make_faulty_endpoint(std::unique_ptr<Endpoint> inner, std::vector<FaultRule> rules, std::uint64_t seed) {
  return std::make_unique<Faulty>(std::move(inner), std::move(rules), seed);
}

}  // namespace tessera::transport
