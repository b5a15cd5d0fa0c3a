#include "kernels/batch_norm.hpp"

#include <array>
#include <cmath>
#include <vector>

#include "base/check.hpp"
#include "kernels/activation_inline.hpp"
#include "kernels/loops.hpp"

namespace tessera::kernels {
namespace {

// Sums run in this many independent float lanes over at most kBlock cells (one vector register or a few, on any
// machine), then in double.
constexpr Index kLanes = 16;
constexpr Index kBlock = 1024;

using Lanes = std::array<float, kLanes>;

double total(const Lanes& lanes) {
  double sum = 0;
  for (const float lane : lanes) sum += lane;
  return sum;
}

// Moments of up to kBlock contiguous cells: a first sweep finds a centre near the mean, the second, on cells in the
// first-level cache, sums distances from it, which are as exact as the cells themselves.
ChannelMoments block_moments(const float* x, Index length) {
  const Index whole = length / kLanes * kLanes;
  Lanes lanes{};
  for (Index i = 0; i < whole; i += kLanes)
    for (Index lane = 0; lane < kLanes; ++lane) lanes[lane] += x[i + lane];
  double sum = total(lanes);
  for (Index i = whole; i < length; ++i) sum += x[i];
  const auto count = static_cast<double>(length);
  const auto centre = static_cast<float>(sum / count);

  Lanes distances{}, squares{};
  // Two loops: GCC 12 does not vectorise them as one.
  for (Index i = 0; i < whole; i += kLanes)
    for (Index lane = 0; lane < kLanes; ++lane) distances[lane] += x[i + lane] - centre;
  for (Index i = 0; i < whole; i += kLanes)
    for (Index lane = 0; lane < kLanes; ++lane) squares[lane] += (x[i + lane] - centre) * (x[i + lane] - centre);
  double distance = total(distances), square = total(squares);
  for (Index i = whole; i < length; ++i) {
    const double d = static_cast<double>(x[i]) - centre;
    distance += d;
    square += d * d;
  }
  return {count, centre + distance / count, std::max(0., square - distance * distance / count)};
}

void merge_into(ChannelMoments& sum, const ChannelMoments& part) {
  if (part.count == 0) return;
  const double count = sum.count + part.count;
  const double distance = part.mean - sum.mean;
  sum.mean += distance * (part.count / count);
  sum.m2 += part.m2 + distance * distance * (sum.count * part.count / count);
  sum.count = count;
}

// Partial results of pieces of planes, in an order that depends on the box only.
struct Pieces {
  explicit Pieces(const Box& box)
      : box(box),
        rows(std::max<Index>(1, kCellsPerTask / std::max<Index>(1, box.x.size()))),
        per_plane((box.y.size() + rows - 1) / rows),
        count(box.n.size() * box.c.size() * per_plane) {}

  // Pieces of one channel are neighbours, so that summing them is a walk in order.
  template <typename Body>
  void for_each(base::ThreadPool& pool, const Body& body) const {
    // Small planes go several to a task.
    const Index cells = std::max<Index>(1, std::min(rows, box.y.size()) * box.x.size());
    const Index group = std::max<Index>(1, kCellsPerTask / cells);
    pool.parallel_for((count + group - 1) / group, [&](std::ptrdiff_t task, int) {
      for (Index piece = task * group; piece < std::min(count, (task + 1) * group); ++piece) {
        const Index block = piece % per_plane, plane = piece / per_plane;
        const Index n = box.n.begin + plane % box.n.size(), c = box.c.begin + plane / box.n.size();
        const Index y = box.y.begin + block * rows;
        body(piece, n, c, y, std::min(rows, box.y.end - y));
      }
    });
  }

  Index per_channel() const { return box.n.size() * per_plane; }

  Box box;
  Index rows, per_plane, count;
};

// What a channel's parameters boil down to in float arithmetic. Forward and backward use the same expression, so
// that both see the same y.
struct Affine {
  Affine(const NormParameters& p, Index c) : mean(p.mean[c]), gain(static_cast<float>(p.scales[c] / p.deviation(c))), bias(p.biases[c]) {}
  float operator()(float x) const { return (x - mean) * gain + bias; }
  float mean, gain, bias;
};

}  // namespace

double NormParameters::deviation(Index c) const {
  const double v = variance[c];
  return epsilon_in_root ? std::sqrt(v + 1e-5) : std::sqrt(v) + 1e-6;
}

void moments(ConstFloatView x, const Box& box, std::span<ChannelMoments> out, base::ThreadPool& pool) {
  std::fill(out.begin(), out.end(), ChannelMoments{});
  if (box.empty()) return;
  TESSERA_CHECK(x.box.contains(box) && box.c.begin >= 0 && box.c.end <= static_cast<Index>(out.size()), "view={} box={} channels={}",
                to_string(x.box), to_string(box), out.size());
  const Pieces pieces(box);
  std::vector<ChannelMoments> partial(static_cast<std::size_t>(pieces.count));
  const bool adjacent = rows_adjacent(box, x);
  pieces.for_each(pool, [&](Index piece, Index n, Index c, Index y, Index rows) {
    ChannelMoments sum;
    const Index runs = adjacent ? 1 : rows;
    const Index length = adjacent ? rows * box.x.size() : box.x.size();
    for (Index run = 0; run < runs; ++run) {
      const float* cells = &x.at(n, c, y + run, box.x.begin);
      for (Index i = 0; i < length; i += kBlock) merge_into(sum, block_moments(cells + i, std::min(kBlock, length - i)));
    }
    partial[static_cast<std::size_t>(piece)] = sum;
  });
  for (Index c = 0; c < box.c.size(); ++c)
    for (Index piece = 0; piece < pieces.per_channel(); ++piece)
      merge_into(out[static_cast<std::size_t>(box.c.begin + c)], partial[static_cast<std::size_t>(c * pieces.per_channel() + piece)]);
}

void merge_moments(std::span<const ChannelMoments> parts, std::span<ChannelMoments> out) {
  TESSERA_CHECK(!out.empty() && parts.size() % out.size() == 0, "parts={} channels={}", parts.size(), out.size());
  std::fill(out.begin(), out.end(), ChannelMoments{});
  for (std::size_t i = 0; i < parts.size(); ++i) merge_into(out[i % out.size()], parts[i]);
}

void finish_moments(std::span<const ChannelMoments> total, float* mean, float* variance, float* rolling_mean, float* rolling_variance) {
  for (std::size_t c = 0; c < total.size(); ++c) {
    mean[c] = static_cast<float>(total[c].mean);
    variance[c] = static_cast<float>(total[c].m2 / (total[c].count - 1));
    if (rolling_mean != nullptr) rolling_mean[c] = .99f * rolling_mean[c] + .01f * mean[c];
    if (rolling_variance != nullptr) rolling_variance[c] = .99f * rolling_variance[c] + .01f * variance[c];
  }
}

void normalize_activate(ConstFloatView x, const NormParameters& parameters, FloatView y, const Box& box, base::ThreadPool& pool) {
  if (box.empty()) return;
  TESSERA_CHECK(x.box.contains(box) && y.box.contains(box), "x={} y={} box={}", to_string(x.box), to_string(y.box), to_string(box));
  const auto run = [&](Index n, Index c, Index row, Index length) {
    normalize_activate_cells(&x.at(n, c, row, box.x.begin), parameters, c, &y.at(n, c, row, box.x.begin), length);
  };
  for_runs(box, pool, run, x, y);
}

void normalize_activate_cells(const float* x, const NormParameters& parameters, Index c, float* y, Index count) {
  const Affine affine(parameters, c);
  with_activation(parameters.activation, [&]<Activation A>() {
  // No __restrict: in place is allowed. Each cell depends on its own input only, which is all ivdep promises.
#pragma GCC ivdep
    for (Index i = 0; i < count; ++i) y[i] = activate_as<A>(affine(x[i]));
  });
}

void activation_delta_sums(FloatView delta, ConstFloatView x, const NormParameters& parameters, const Box& box, const Box& owned,
                           std::span<ChannelSums> sums, base::ThreadPool& pool) {
  std::fill(sums.begin(), sums.end(), ChannelSums{});
  if (box.empty()) return;
  TESSERA_CHECK(delta.box.contains(box) && x.box.contains(box) && box.contains(owned) && box.c.end <= static_cast<Index>(sums.size()),
                "delta={} x={} box={} owned={} channels={}", to_string(delta.box), to_string(x.box), to_string(box), to_string(owned),
                sums.size());
  with_activation(parameters.activation, [&]<Activation A>() {
    for (const Box& rest : geometry::subtract(box, owned)) {
      const auto run = [&](Index n, Index c, Index row, Index length) {
        const Affine affine(parameters, c);
        const float* __restrict cells = &x.at(n, c, row, rest.x.begin);
        float* __restrict d = &delta.at(n, c, row, rest.x.begin);
        for (Index i = 0; i < length; ++i) d[i] *= slope_at<A>(affine(cells[i]));
      };
      for_runs(rest, pool, run, delta, x);
    }
    if (owned.empty()) return;
    const Pieces pieces(owned);
    std::vector<ChannelSums> partial(static_cast<std::size_t>(pieces.count));
    const bool adjacent = rows_adjacent(owned, delta, x);
    pieces.for_each(pool, [&](Index piece, Index n, Index c, Index y, Index rows) {
      const Affine affine(parameters, c);
      ChannelSums sum;
      const Index runs = adjacent ? 1 : rows;
      const Index length = adjacent ? rows * owned.x.size() : owned.x.size();
      for (Index run = 0; run < runs; ++run) {
        const float* __restrict cells = &x.at(n, c, y + run, owned.x.begin);
        float* __restrict d = &delta.at(n, c, y + run, owned.x.begin);
        for (Index begin = 0; begin < length; begin += kBlock) {
          const Index end = std::min(length, begin + kBlock), whole = begin + (end - begin) / kLanes * kLanes;
          Lanes s1{}, s2{};
          for (Index i = begin; i < whole; i += kLanes)
            for (Index lane = 0; lane < kLanes; ++lane) {
              const float cell = cells[i + lane];
              const float value = d[i + lane] * slope_at<A>(affine(cell));
              d[i + lane] = value;
              s1[lane] += value;
              s2[lane] += value * (cell - affine.mean);
            }
          sum.delta += kernels::total(s1);
          sum.delta_x += kernels::total(s2);
          for (Index i = whole; i < end; ++i) {
            d[i] *= slope_at<A>(affine(cells[i]));
            sum.delta += d[i];
            sum.delta_x += static_cast<double>(d[i]) * (cells[i] - affine.mean);
          }
        }
      }
      partial[static_cast<std::size_t>(piece)] = sum;
    });
    for (Index c = 0; c < owned.c.size(); ++c)
      for (Index piece = 0; piece < pieces.per_channel(); ++piece) {
        const ChannelSums& part = partial[static_cast<std::size_t>(c * pieces.per_channel() + piece)];
        ChannelSums& sum = sums[static_cast<std::size_t>(owned.c.begin + c)];
        sum.delta += part.delta;
        sum.delta_x += part.delta_x;
      }
  });
}

void merge_sums(std::span<const ChannelSums> parts, std::span<ChannelSums> out) {
  TESSERA_CHECK(!out.empty() && parts.size() % out.size() == 0, "parts={} channels={}", parts.size(), out.size());
  std::fill(out.begin(), out.end(), ChannelSums{});
  for (std::size_t i = 0; i < parts.size(); ++i) {
    out[i % out.size()].delta += parts[i].delta;
    out[i % out.size()].delta_x += parts[i].delta_x;
  }
}

void normalize_delta(FloatView delta, ConstFloatView x, const NormParameters& parameters, std::span<const ChannelSums> total, double count,
                     const Box& box, base::ThreadPool& pool) {
  if (box.empty()) return;
  TESSERA_CHECK(delta.box.contains(box) && x.box.contains(box) && box.c.end <= static_cast<Index>(total.size()),
                "delta={} x={} box={} channels={}", to_string(delta.box), to_string(x.box), to_string(box), total.size());
  const auto run = [&](Index n, Index c, Index row, Index length) {
    const ChannelSums& sums = total[static_cast<std::size_t>(c)];
    const double scale = parameters.scales[c];
    const double variance = static_cast<double>(parameters.variance[c]) + 1e-5;
    const double mean_delta = -scale * sums.delta / std::sqrt(variance);
    const double variance_delta = -.5 * scale * sums.delta_x / (variance * std::sqrt(variance));
    const float mean = parameters.mean[c];
    const auto of_delta = static_cast<float>(scale / std::sqrt(variance));
    const auto of_x = static_cast<float>(2 * variance_delta / count);
    const auto constant = static_cast<float>(mean_delta / count);
    const float* __restrict cells = &x.at(n, c, row, box.x.begin);
    float* __restrict d = &delta.at(n, c, row, box.x.begin);
    for (Index i = 0; i < length; ++i) d[i] = of_delta * d[i] + of_x * (cells[i] - mean) + constant;
  };
  for_runs(box, pool, run, delta, x);
}

void add_norm_gradients(std::span<const ChannelSums> sums, const NormParameters& parameters, float* scale_gradient, float* bias_gradient) {
  for (std::size_t c = 0; c < sums.size(); ++c) {
    scale_gradient[c] += static_cast<float>(sums[c].delta_x / parameters.deviation(static_cast<Index>(c)));
    bias_gradient[c] += static_cast<float>(sums[c].delta);
  }
}

void add_bias_gradients(std::span<const ChannelSums> sums, float* bias_gradient) {
  for (std::size_t c = 0; c < sums.size(); ++c) bias_gradient[c] += static_cast<float>(sums[c].delta);
}

void bias_activate(FloatView y, const float* biases, Activation activation, const Box& box, base::ThreadPool& pool) {
  if (box.empty()) return;
  TESSERA_CHECK(y.box.contains(box), "y={} box={}", to_string(y.box), to_string(box));
  with_activation(activation, [&]<Activation A>() {
    const auto run = [&](Index n, Index c, Index row, Index length) {
      const float bias = biases == nullptr ? 0.f : biases[c];
      float* cells = &y.at(n, c, row, box.x.begin);
      for (Index i = 0; i < length; ++i) cells[i] = activate_as<A>(cells[i] + bias);
    };
    for_runs(box, pool, run, y);
  });
}

void activation_delta(FloatView delta, ConstFloatView y, Activation activation, const Box& box, const Box& owned,
                      std::span<ChannelSums> sums, base::ThreadPool& pool) {
  std::fill(sums.begin(), sums.end(), ChannelSums{});
  if (box.empty()) return;
  TESSERA_CHECK(delta.box.contains(box) && y.box.contains(box) && box.contains(owned) &&
                    (sums.empty() || box.c.end <= static_cast<Index>(sums.size())),
                "delta={} y={} box={} owned={} channels={}", to_string(delta.box), to_string(y.box), to_string(box), to_string(owned),
                sums.size());
  with_activation(activation, [&]<Activation A>() {
    if (A != Activation::kLinear) {
      const auto run = [&](Index n, Index c, Index row, Index length) {
        const float* __restrict cells = &y.at(n, c, row, box.x.begin);
        float* __restrict d = &delta.at(n, c, row, box.x.begin);
        for (Index i = 0; i < length; ++i) d[i] *= slope_as<A>(cells[i]);
      };
      for_runs(box, pool, run, delta, y);
    }
  });
  if (sums.empty() || owned.empty()) return;
  // The bias sum is the moments' count * mean; these layers are small (the last of a network), so a second pass is cheap.
  std::vector<ChannelMoments> sum(sums.size());
  moments(delta, owned, sum, pool);
  for (std::size_t c = 0; c < sums.size(); ++c) sums[c].delta = sum[c].count * sum[c].mean;
}

}  // namespace tessera::kernels
