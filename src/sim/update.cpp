#include "sim/update.hpp"

#include <algorithm>

#include "program/gradient_chunks.hpp"
#include "sim/network.hpp"

namespace tessera::sim {

using graph::Graph;
using program::GradientChunk;

namespace {

constexpr std::uint64_t kFloat = sizeof(float);
// An update reads and writes weight and momentum, reads the gradient and clears it.
constexpr double kUpdateBytesPerElement = 6 * kFloat;

std::size_t at(int i) { return static_cast<std::size_t>(i); }

struct Elements {
  std::uint64_t summed = 0;      // weights, and biases of layers without batch norm
  std::uint64_t replicated = 0;  // biases and scales of batch norm
  std::uint64_t statistics = 0;
};

Elements elements(const Graph& graph) {
  Elements sum;
  for (int node = 0; node < graph.size(); ++node) {
    const auto& layer = graph[node];
    const auto summed = static_cast<std::uint64_t>(program::summed_elements(graph, node));
    const auto norm = layer.batch_normalize ? 2 * static_cast<std::uint64_t>(layer.out.c) : 0;
    sum.summed += summed;
    sum.replicated += norm;
    sum.statistics += norm;
  }
  return sum;
}

class Update {
 public:
  Update(const std::vector<DeviceProfile>& profiles, std::vector<DeviceForecast>& devices)
      : profiles_(profiles), devices_(devices), network_(profiles), clocks_(profiles.size()) {}

  void compute(int p, std::uint64_t count) { spend(p, static_cast<double>(count) * kUpdateBytesPerElement); }

  // The owner's new values to those who read them, but not to the coordinator, who updates everything itself.
  void share(const Graph& graph, const program::Sharding& sharding, const GradientChunk& chunk) {
    for (int to = 1; to < static_cast<int>(profiles_.size()); ++to) {
      const auto bytes = static_cast<std::uint64_t>(program::fresh_elements(graph, sharding, chunk, to)) * kFloat;
      if (to == chunk.owner || bytes == 0) continue;
      spend(chunk.owner, 2.0 * static_cast<double>(bytes));
      messages_.push_back(network_.send(chunk.owner, to, bytes, clocks_[at(chunk.owner)]));
      devices_[at(chunk.owner)].sent_bytes += bytes;
      ++devices_[at(chunk.owner)].sent_messages;
    }
  }

  void take() {
    for (const Message& message : messages_) {
      clocks_[at(message.to)] = std::max(clocks_[at(message.to)], network_.arrival(message));
      spend(message.to, 2.0 * message.bytes);
      devices_[at(message.to)].received_bytes += static_cast<std::uint64_t>(message.bytes);
    }
  }

  double seconds() const { return *std::max_element(clocks_.begin(), clocks_.end()); }

 private:
  void spend(int p, double memory_bytes) {
    const double seconds = memory_bytes / profiles_[at(p)].memory_bytes_per_second;
    clocks_[at(p)] += seconds;
    devices_[at(p)].busy_seconds += seconds;
  }

  const std::vector<DeviceProfile>& profiles_;
  std::vector<DeviceForecast>& devices_;
  Network network_;
  std::vector<double> clocks_;
  std::vector<Message> messages_;
};

// Of its chunks.
std::vector<std::uint64_t> owned_elements(const std::vector<GradientChunk>& chunks, std::size_t participants) {
  std::vector<std::uint64_t> owned(participants);
  for (const GradientChunk& chunk : chunks) owned[at(chunk.owner)] += static_cast<std::uint64_t>(chunk.elements.size());
  return owned;
}

std::uint64_t own_gradient(const program::Program& program) {
  std::uint64_t elements = 0;
  for (const auto& window : program.gradient_windows) elements += static_cast<std::uint64_t>(window.size());
  return elements;
}

}  // namespace

double update_weights(const Graph& graph, const program::Sharding& sharding, const std::vector<DeviceProfile>& profiles,
                      std::vector<DeviceForecast>& devices) {
  const auto& chunks = sharding.chunks;
  const auto owned = owned_elements(chunks, profiles.size());
  const Elements count = elements(graph);
  Update update(profiles, devices);
  for (std::size_t p = 0; p < profiles.size(); ++p)
    update.compute(static_cast<int>(p), count.replicated + (p == 0 ? count.summed : owned[p]));
  for (const GradientChunk& chunk : chunks) update.share(graph, sharding, chunk);
  update.take();
  return update.seconds();
}

std::size_t parameter_bytes(const Graph& graph, const program::ProgramSet& set, int participant) {
  const int participants = static_cast<int>(set.programs.size());
  const Elements count = elements(graph);
  std::uint64_t total = count.summed + count.replicated + count.statistics;
  if (set.mode == program::Mode::kTrain) {
    total += 2 * count.replicated;  // momentum and gradient
    if (participants == 1)
      total += count.summed;  // momentum; gradients are added to it
    else if (participant == 0)
      total += 2 * count.summed;
    else
      total += 2 * owned_elements(set.sharding->chunks, at(participants))[at(participant)] +
               (set.single_pass ? 0 : own_gradient(set.programs[at(participant)]));
  }
  return static_cast<std::size_t>(total * kFloat);
}

}  // namespace tessera::sim
