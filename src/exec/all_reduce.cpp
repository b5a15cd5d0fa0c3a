#include "exec/all_reduce.hpp"

#include <algorithm>
#include <cstring>

namespace tessera::exec {

using geometry::Index;
using transport::Frame;

namespace {

constexpr std::size_t kBucketElements = std::size_t{1} << 20;
constexpr std::size_t kShardAlignment = 16;  // elements: shards of different owners do not share a cache line

struct Shards {
  std::size_t begin, end, width;
  std::pair<std::size_t, std::size_t> of(int participant) const {
    const std::size_t from = std::min(end, begin + static_cast<std::size_t>(participant) * width);
    return {from, std::min(end, from + width)};
  }
};

Shards shards(std::size_t begin, std::size_t end, std::size_t participants) {
  const std::size_t width = (end - begin + participants - 1) / participants;
  return {begin, end, (width + kShardAlignment - 1) / kShardAlignment * kShardAlignment};
}

class Bucket {
 public:
  Bucket(std::span<float> values, const std::vector<bool>& contributes, int self, Mailbox& mailbox, std::size_t begin, std::uint32_t number)
      : values_(values), contributes_(contributes), self_(self), participants_(static_cast<int>(contributes.size())), mailbox_(mailbox),
        shards_(shards(begin, std::min(values.size(), begin + kBucketElements), contributes.size())),
        first_transfer_(number * 2 * static_cast<std::uint32_t>(participants_)) {}

  // This participant's parts to their owners.
  base::Status scatter() {
    if (!contributes_[static_cast<std::size_t>(self_)]) return {};
    for (int to = 0; to < participants_; ++to)
      if (to != self_) TESSERA_TRY(send(to, to, 0));
    return {};
  }

  // The sum of its own shard, to everybody.
  base::Status reduce() {
    const auto own = shard(self_);
    std::vector<float> sum(own.size());
    for (int from = 0; from < participants_; ++from) {
      if (!contributes_[static_cast<std::size_t>(from)] || own.empty()) continue;
      if (from == self_) {
        for (std::size_t i = 0; i < own.size(); ++i) sum[i] += own[i];
      } else {
        TESSERA_ASSIGN(const Frame part, mailbox_.receive(from, piece(self_, 0)));
        for (std::size_t i = 0; i < own.size(); ++i) {
          float value;
          std::memcpy(&value, part.data() + i * sizeof(float), sizeof(float));
          sum[i] += value;
        }
      }
    }
    std::copy(sum.begin(), sum.end(), own.begin());
    for (int to = 0; to < participants_; ++to)
      if (to != self_) TESSERA_TRY(send(self_, to, 1));
    return {};
  }

  // Everybody else's shards.
  base::Status gather() {
    for (int from = 0; from < participants_; ++from) {
      const auto target = shard(from);
      if (from == self_ || target.empty()) continue;
      TESSERA_ASSIGN(const Frame part, mailbox_.receive(from, piece(from, 1)));
      std::memcpy(target.data(), part.data(), target.size_bytes());
    }
    return {};
  }

 private:
  std::span<float> shard(int owner) {
    const auto [from, to] = shards_.of(owner);
    return values_.subspan(from, to - from);
  }

  Piece piece(int owner, std::uint32_t phase) {
    return {first_transfer_ + phase * static_cast<std::uint32_t>(participants_) + static_cast<std::uint32_t>(owner), wire::ElementType::kFloat32,
            {{0, 1}, {0, 1}, {0, 1}, {0, static_cast<Index>(shard(owner).size())}}};
  }

  base::Status send(int owner, int to, std::uint32_t phase) {
    const auto values = shard(owner);
    if (values.empty()) return {};
    Frame frame = mailbox_.allocate(values.size_bytes());
    std::memcpy(frame.data(), values.data(), values.size_bytes());
    return mailbox_.send(to, transport::Lane::kBulk, piece(owner, phase), std::move(frame));
  }

  std::span<float> values_;
  const std::vector<bool>& contributes_;
  const int self_, participants_;
  Mailbox& mailbox_;
  const Shards shards_;
  const std::uint32_t first_transfer_;
};

}  // namespace

base::Status all_reduce(std::span<float> values, const std::vector<bool>& contributes, int self, Mailbox& mailbox) {
  if (contributes.size() < 2) return {};
  std::vector<Bucket> buckets;
  for (std::size_t begin = 0; begin < values.size(); begin += kBucketElements)
    buckets.emplace_back(values, contributes, self, mailbox, begin, static_cast<std::uint32_t>(buckets.size()));
  // A bucket's parts leave before the one before it is waited for, so that there is always something on the way.
  for (std::size_t i = 0; i < buckets.size() + 2; ++i) {
    if (i < buckets.size()) TESSERA_TRY(buckets[i].scatter());
    if (i >= 1 && i <= buckets.size()) TESSERA_TRY(buckets[i - 1].reduce());
    if (i >= 2) TESSERA_TRY(buckets[i - 2].gather());
  }
  return {};
}

}  // namespace tessera::exec
