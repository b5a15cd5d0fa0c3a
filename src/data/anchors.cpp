#include "data/anchors.hpp"

#include <algorithm>

#include "data/sample_rng.hpp"

namespace tessera::data {
namespace {

constexpr int kStarts = 5, kRounds = 200;

std::size_t nearest_anchor(const BoxSize& box, const std::vector<BoxSize>& anchors, double* iou) {
  std::size_t best = 0;
  *iou = -1;
  for (std::size_t i = 0; i < anchors.size(); ++i) {
    const double candidate = size_iou(box, anchors[i]);
    if (candidate > *iou) {
      *iou = candidate;
      best = i;
    }
  }
  return best;
}

// k-means++: every next start is drawn with a chance that grows with its distance from those chosen.
std::vector<BoxSize> choose_starts(std::span<const BoxSize> boxes, std::size_t count, SampleRng& rng) {
  std::vector<BoxSize> starts = {boxes[rng.below(boxes.size())]};
  while (starts.size() < count) {
    std::vector<double> distance;
    double sum = 0;
    for (const BoxSize& box : boxes) {
      double iou = 0;
      nearest_anchor(box, starts, &iou);
      distance.push_back((1 - iou) * (1 - iou));
      sum += distance.back();
    }
    double at = rng.unit() * sum;
    std::size_t chosen = 0;
    while (chosen + 1 < distance.size() && (at -= distance[chosen]) > 0) ++chosen;
    starts.push_back(boxes[chosen]);
  }
  return starts;
}

Anchors run_once(std::span<const BoxSize> boxes, std::vector<BoxSize> anchors) {
  std::vector<std::size_t> owner(boxes.size(), anchors.size());
  double iou_sum = 0;
  for (int round = 0; round < kRounds; ++round) {
    bool changed = false;
    iou_sum = 0;
    std::vector<BoxSize> sums(anchors.size());
    std::vector<double> counts(anchors.size(), 0.0);
    for (std::size_t i = 0; i < boxes.size(); ++i) {
      double iou = 0;
      const std::size_t best = nearest_anchor(boxes[i], anchors, &iou);
      changed |= owner[i] != best;
      owner[i] = best;
      iou_sum += iou;
      sums[best].width += boxes[i].width;
      sums[best].height += boxes[i].height;
      ++counts[best];
    }
    if (!changed) break;
    for (std::size_t k = 0; k < anchors.size(); ++k)
      if (counts[k] > 0) anchors[k] = {sums[k].width / counts[k], sums[k].height / counts[k]};
  }
  std::sort(anchors.begin(), anchors.end(), [](const BoxSize& a, const BoxSize& b) { return a.width * a.height < b.width * b.height; });
  return {std::move(anchors), iou_sum / static_cast<double>(boxes.size())};
}

}  // namespace

double size_iou(const BoxSize& a, const BoxSize& b) {
  const double both = std::min(a.width, b.width) * std::min(a.height, b.height);
  const double either = a.width * a.height + b.width * b.height - both;
  return either > 0 ? both / either : 0;
}

base::Result<Anchors> find_anchors(std::span<const BoxSize> boxes, int count, std::uint64_t seed) {
  if (count < 1) return base::error(base::ErrorCode::kInvalidArgument, "-num_of_clusters {}: must be at least 1", count);
  if (boxes.size() < static_cast<std::size_t>(count))
    return base::error(base::ErrorCode::kInvalidArgument, "{} anchors need at least as many labelled boxes; there are {}", count,
                       boxes.size());
  Anchors best;
  for (int start = 0; start < kStarts; ++start) {
    SampleRng rng(seed, static_cast<std::uint64_t>(start));
    Anchors found = run_once(boxes, choose_starts(boxes, static_cast<std::size_t>(count), rng));
    if (best.sizes.empty() || found.mean_iou > best.mean_iou) best = std::move(found);
  }
  return best;
}

}  // namespace tessera::data
