#include "data/partition.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "data/sample_rng.hpp"

namespace tessera::data {
namespace {

constexpr int kDraws = 10000;

// In (0, 1).
double uniform(SampleRng& rng) { return (static_cast<double>(rng.next() >> 11) + 0.5) * 0x1p-53; }

double normal(SampleRng& rng) {
  const double radius = std::sqrt(-2 * std::log(uniform(rng)));
  return radius * std::cos(2 * std::numbers::pi * uniform(rng));
}

// The logarithm of a number from the gamma distribution (Marsaglia, Tsang 2000): numbers of a small shape underflow.
double log_gamma_sample(SampleRng& rng, double shape) {
  const double d = shape + 2.0 / 3, c = 1 / std::sqrt(9 * d);  // of shape + 1
  for (;;) {
    const double x = normal(rng), root = 1 + c * x;
    if (root <= 0) continue;
    const double v = root * root * root;
    if (std::log(uniform(rng)) < x * x / 2 + d - d * v + d * std::log(v)) return std::log(d * v) + std::log(uniform(rng)) / shape;
  }
}

std::vector<double> dirichlet(SampleRng& rng, double alpha, int count) {
  std::vector<double> shares(static_cast<std::size_t>(count));
  for (double& share : shares) share = log_gamma_sample(rng, alpha);
  const double most = *std::max_element(shares.begin(), shares.end());
  for (double& share : shares) share = std::exp(share - most);
  const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
  for (double& share : shares) share /= sum;
  return shares;
}

void shuffle(std::vector<std::size_t>& samples, SampleRng& rng) {
  for (std::size_t i = samples.size(); i > 1; --i) std::swap(samples[i - 1], samples[rng.below(i)]);
}

// Cuts `samples` at the running sums of `shares`.
void deal(const std::vector<std::size_t>& samples, const std::vector<double>& shares, Partition& parts) {
  std::size_t begin = 0;
  double sum = 0;
  for (std::size_t edge = 0; edge < shares.size(); ++edge) {
    sum += shares[edge];
    const auto wanted = static_cast<std::size_t>(std::llround(sum * static_cast<double>(samples.size())));
    const std::size_t end = edge + 1 == shares.size() ? samples.size() : std::clamp(wanted, begin, samples.size());
    parts[edge].insert(parts[edge].end(), samples.begin() + static_cast<std::ptrdiff_t>(begin),
                       samples.begin() + static_cast<std::ptrdiff_t>(end));
    begin = end;
  }
}

}  // namespace

base::Result<Partition> partition(const std::vector<int>& classes, const PartitionRequest& request) {
  const auto edges = static_cast<std::size_t>(std::max(request.edges, 0));
  if (edges == 0 || classes.size() < edges * request.least)
    return base::error(base::ErrorCode::kInvalidArgument, "{} pictures cannot give each of {} edges at least {}; take fewer edges",
                       classes.size(), request.edges, request.least);
  if (!(request.alpha >= 0) || !std::isfinite(request.alpha))
    return base::error(base::ErrorCode::kInvalidArgument, "alpha={} must be a number above 0; without it every edge has the same mixture",
                       request.alpha);
  std::vector<std::vector<std::size_t>> of_class;
  for (std::size_t i = 0; i < classes.size(); ++i) {
    const std::size_t group = request.alpha > 0 ? static_cast<std::size_t>(classes[i]) : 0;
    if (group >= of_class.size()) of_class.resize(group + 1);
    of_class[group].push_back(i);
  }
  for (std::uint64_t draw = 0; draw < kDraws; ++draw) {
    SampleRng rng(request.seed, draw, 0x9A27);
    Partition parts(edges);
    for (std::vector<std::size_t> samples : of_class) {
      shuffle(samples, rng);
      const std::vector<double> equal(edges, 1.0 / static_cast<double>(edges));
      deal(samples, request.alpha > 0 ? dirichlet(rng, request.alpha, request.edges) : equal, parts);
    }
    if (std::any_of(parts.begin(), parts.end(), [&](const auto& part) { return part.size() < request.least; })) continue;
    for (auto& part : parts) std::sort(part.begin(), part.end());
    return parts;
  }
  return base::error(base::ErrorCode::kInvalidArgument,
                     "in {} draws there was always an edge with fewer than {} pictures; take fewer edges, or a larger alpha than {}",
                     kDraws, request.least, request.alpha);
}

std::vector<std::vector<std::size_t>> class_counts(const Partition& partition, const std::vector<int>& classes, std::size_t labels) {
  std::vector<std::vector<std::size_t>> counts(partition.size(), std::vector<std::size_t>(labels));
  for (std::size_t edge = 0; edge < partition.size(); ++edge)
    for (const std::size_t sample : partition[edge]) ++counts[edge][static_cast<std::size_t>(classes[sample])];
  return counts;
}

}  // namespace tessera::data
