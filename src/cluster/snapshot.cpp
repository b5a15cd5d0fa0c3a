#include "cluster/snapshot.hpp"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "base/check.hpp"

namespace tessera::cluster {

using program::Slot;

namespace {

constexpr std::array kArrays = {Slot::kWeights,         Slot::kBiases,   Slot::kScales,       Slot::kRollingMean,
                                Slot::kRollingVariance, Slot::kMomentum, Slot::kBiasMomentum, Slot::kScaleMomentum};

std::span<float> array_of(const graph::Graph& graph, const exec::Parameters& parameters, int node, Slot slot) {
  const auto view = exec::parameter_view(graph, parameters, node, slot);
  return {view.data, view.data ? static_cast<std::size_t>(view.box.elements()) : 0};
}

// Reads or writes all of it; false when the file does not do it.
template <typename Transfer, typename Bytes>
bool all(Transfer transfer, int descriptor, Bytes bytes, std::size_t offset) {
  while (!bytes.empty()) {
    const auto done = transfer(descriptor, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return false;
    bytes = bytes.subspan(static_cast<std::size_t>(done));
    offset += static_cast<std::size_t>(done);
  }
  return true;
}

}  // namespace

Snapshot::Snapshot(const graph::Graph& graph, const exec::Parameters& parameters) : graph_(graph), parameters_(parameters) {
  for (int node = 0; node < graph.size(); ++node) {
    auto& offsets = offsets_.emplace_back();
    for (const Slot slot : kArrays) {
      offsets.push_back(bytes_);
      if (graph[node].trainable()) bytes_ += array_of(graph, parameters, node, slot).size_bytes();
    }
  }
}

std::size_t Snapshot::offset_of(int node, Slot slot) const {
  const auto index = std::find(kArrays.begin(), kArrays.end(), slot) - kArrays.begin();
  return offsets_[static_cast<std::size_t>(node)][static_cast<std::size_t>(index)];
}

base::Status Snapshot::begin() {
  arrived_ = 0, failed_ = false;
  if (!file_) file_.reset(std::tmpfile());
  if (!file_) return base::error(base::ErrorCode::kIo, "no temporary file for a snapshot of {} MB: {}", bytes_ >> 20, std::strerror(errno));
  return {};
}

void Snapshot::add(int node, Slot slot, const geometry::Box& box, std::span<const float> values) {
  const auto row = values.size() / static_cast<std::size_t>(box.n.size());
  const std::size_t offset = offset_of(node, slot) + static_cast<std::size_t>(box.n.begin) * row * sizeof(float);
  arrived_ += values.size_bytes();
  failed_ = failed_ || !all(::pwrite, fileno(file_.get()), std::as_bytes(values), offset);
}

base::Status Snapshot::finish() {
  if (failed_)
    return base::error(base::ErrorCode::kIo, "a snapshot of {} MB does not fit into the temporary folder; make room or set TMPDIR",
                       bytes_ >> 20);
  if (arrived_ != bytes_) return base::error(base::ErrorCode::kProtocol, "a snapshot of {} bytes, {} have come", bytes_, arrived_);
  for (int node = 0; node < graph_.size(); ++node)
    for (const Slot slot : kArrays)
      if (graph_[node].trainable() &&
          !all(::pread, fileno(file_.get()), std::as_writable_bytes(array_of(graph_, parameters_, node, slot)), offset_of(node, slot)))
        return base::error(base::ErrorCode::kIo, "the snapshot cannot be read back: {}", std::strerror(errno));
  return {};
}

}  // namespace tessera::cluster
