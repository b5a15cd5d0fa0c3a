#include "sim/reduction.hpp"

#include <algorithm>

#include "sim/network.hpp"

namespace tessera::sim {

using graph::Graph;

namespace {

constexpr std::uint64_t kBucketElements = std::uint64_t{1} << 20;
constexpr std::uint64_t kShardAlignment = 16;
constexpr std::uint64_t kFloat = sizeof(float);
// An update reads and writes weight and momentum, reads the gradient and clears it.
constexpr double kUpdateBytesPerElement = 6 * kFloat;

std::size_t at(int i) { return static_cast<std::size_t>(i); }

struct Elements {
  std::uint64_t partial = 0;  // summed over participants: weights, and biases of layers without batch norm
  std::uint64_t trained = 0;
  std::uint64_t statistics = 0;
};

Elements elements(const Graph& graph) {
  Elements sum;
  for (int node = 0; node < graph.size(); ++node) {
    const auto& layer = graph[node];
    if (!layer.trainable()) continue;
    const auto weights = static_cast<std::uint64_t>(graph.weights(node)), channels = static_cast<std::uint64_t>(layer.out.c);
    sum.partial += weights + (layer.batch_normalize ? 0 : channels);
    sum.trained += weights + (layer.batch_normalize ? 2 : 1) * channels;
    sum.statistics += layer.batch_normalize ? 2 * channels : 0;
  }
  return sum;
}

class Reduction {
 public:
  Reduction(const plan::Plan& plan, const std::vector<DeviceProfile>& profiles, std::vector<DeviceForecast>& devices)
      : participants_(plan.participants), contributes_(plan::contributors(plan)), profiles_(profiles), devices_(devices), network_(profiles),
        clocks_(profiles.size()) {}

  void bucket(std::uint64_t size) {
    width_ = (size + at(participants_) - 1) / at(participants_);
    width_ = (width_ + kShardAlignment - 1) / kShardAlignment * kShardAlignment;
    size_ = size;
    // Nothing of a phase depends on what somebody else does in the same phase, so phases can be gone through in turn.
    std::vector<Message> parts, sums;
    for (int from = 0; from < participants_; ++from)
      for (int to = 0; to < participants_ && contributes_[at(from)]; ++to) send(from, to, shard(to), parts);
    for (int p = 0; p < participants_; ++p) {
      receive(p, parts);
      const auto contributors = std::count(contributes_.begin(), contributes_.end(), true);
      spend(p, static_cast<double>(shard(p) * kFloat) * 2.0 * static_cast<double>(contributors));
    }
    for (int from = 0; from < participants_; ++from)
      for (int to = 0; to < participants_; ++to) send(from, to, shard(from), sums);
    for (int p = 0; p < participants_; ++p) receive(p, sums);
  }

  void update(std::uint64_t trained) {
    for (int p = 0; p < participants_; ++p) spend(p, static_cast<double>(trained) * kUpdateBytesPerElement);
  }

  double seconds() const { return *std::max_element(clocks_.begin(), clocks_.end()); }

 private:
  std::uint64_t shard(int owner) const { return std::min(size_, at(owner + 1) * width_) - std::min(size_, at(owner) * width_); }

  void spend(int p, double memory_bytes) {
    const double seconds = memory_bytes / profiles_[at(p)].memory_bytes_per_second;
    clocks_[at(p)] += seconds;
    devices_[at(p)].busy_seconds += seconds;
  }

  void send(int from, int to, std::uint64_t count, std::vector<Message>& messages) {
    const std::uint64_t bytes = count * kFloat;
    if (from == to || bytes == 0) return;
    spend(from, 2.0 * static_cast<double>(bytes));
    messages.push_back(network_.send(from, to, bytes, clocks_[at(from)]));
    devices_[at(from)].sent_bytes += bytes;
    ++devices_[at(from)].sent_messages;
  }

  void receive(int p, const std::vector<Message>& messages) {
    for (const Message& message : messages) {
      if (message.to != p) continue;
      clocks_[at(p)] = std::max(clocks_[at(p)], network_.arrival(message));
      spend(p, 2.0 * message.bytes);
      devices_[at(p)].received_bytes += static_cast<std::uint64_t>(message.bytes);
    }
  }

  const int participants_;
  const std::vector<bool> contributes_;
  const std::vector<DeviceProfile>& profiles_;
  std::vector<DeviceForecast>& devices_;
  Network network_;
  std::vector<double> clocks_;
  std::uint64_t size_ = 0, width_ = 0;  // of the current bucket and its shards, in elements
};

}  // namespace

double reduce_gradients(const Graph& graph, const plan::Plan& plan, const std::vector<DeviceProfile>& profiles,
                        std::vector<DeviceForecast>& devices) {
  Reduction reduction(plan, profiles, devices);
  const Elements count = elements(graph);
  if (plan.participants > 1)
    for (std::uint64_t begin = 0; begin < count.partial; begin += kBucketElements)
      reduction.bucket(std::min(kBucketElements, count.partial - begin));
  reduction.update(count.trained);
  return reduction.seconds();
}

std::size_t parameter_bytes(const Graph& graph, program::Mode mode) {
  const Elements count = elements(graph);
  const std::uint64_t copies = mode == program::Mode::kTrain ? 3 : 1;
  return static_cast<std::size_t>((copies * count.trained + count.statistics) * kFloat);
}

}  // namespace tessera::sim
