// Batch normalisation, bias and activation as fused passes, with Darknet's formulas (batchnorm_layer.c, blas.c):
// forward  x_norm = (x - mean) / (sqrt(variance) + 1e-6), variance with N - 1;  y = act(scale * x_norm + bias)
// (epsilon_in_root: AlexeyAB's Darknet, / sqrt(variance + 1e-5))
// backward with sqrt(variance + 1e-5), see normalize_delta().
// Statistics are over the whole batch and map: each device contributes the cells it owns, merged in device order.
// All per-channel arrays are indexed by the tensor's channel number. Threads: those of `pool`; results do not depend
// on their number.
#pragma once

#include <span>

#include "base/thread_pool.hpp"
#include "geometry/tensor_view.hpp"
#include "kernels/activation.hpp"

namespace tessera::kernels {

using geometry::Box;
using geometry::ConstFloatView;
using geometry::FloatView;
using geometry::Index;

// Of one channel over some cells: mean and m2 = sum of squared distances from it. Sent as is (24 bytes, little
// endian on every machine supported).
struct ChannelMoments {
  double count = 0, mean = 0, m2 = 0;
};

// Of one channel over some cells, of δ = dL/d(scale * x_norm + bias).
struct ChannelSums {
  double delta = 0;    // Σ δ: the bias gradient
  double delta_x = 0;  // Σ δ (x - mean)
};

struct NormParameters {
  const float* mean = nullptr;
  const float* variance = nullptr;
  const float* scales = nullptr;
  const float* biases = nullptr;
  Activation activation = Activation::kLinear;
  bool epsilon_in_root = false;

  double deviation(Index c) const;  // what x - mean is divided by
};

// out[c] for every channel of the tensor (out.size() channels): moments over the cells of `box`; channels outside
// box.c, or all when box is empty, get count 0.
void moments(ConstFloatView x, const Box& box, std::span<ChannelMoments> out, base::ThreadPool& pool);

// parts = one array of out.size() channels per device, in device order, one after the other. Chan, Golub, LeVeque 1979.
void merge_moments(std::span<const ChannelMoments> parts, std::span<ChannelMoments> out);

// mean and variance as Darknet defines them, and its rolling averages: rolling = 0.99 rolling + 0.01 new. rolling_*
// may both be null.
void finish_moments(std::span<const ChannelMoments> total, float* mean, float* variance, float* rolling_mean, float* rolling_variance);

// y[box] = activation(scale * x_norm + bias). y may be x itself (same data and box).
void normalize_activate(ConstFloatView x, const NormParameters& parameters, FloatView y, const Box& box, base::ThreadPool& pool);

// The same for `count` cells of channel c that lie one after the other, in the caller's thread.
void normalize_activate_cells(const float* x, const NormParameters& parameters, Index c, float* y, Index count);

// delta[box] *= activation'(y), y recomputed from x; sums[c] (all channels) = sums over the cells of `owned`, a part
// of box (may be empty). One pass.
void activation_delta_sums(FloatView delta, ConstFloatView x, const NormParameters& parameters, const Box& box, const Box& owned,
                           std::span<ChannelSums> sums, base::ThreadPool& pool);

// Device order, layout as merge_moments.
void merge_sums(std::span<const ChannelSums> parts, std::span<ChannelSums> out);

// delta[box]: from dL/d(scale * x_norm + bias) to dL/dx. `total` are the merged sums, `count` the cells of one channel
// over the whole batch and map.
void normalize_delta(FloatView delta, ConstFloatView x, const NormParameters& parameters, std::span<const ChannelSums> total, double count,
                     const Box& box, base::ThreadPool& pool);

// scale_gradient[c] += Σ δ x_norm (of the forward formula); bias_gradient[c] += Σ δ. `sums`: a device's own or merged.
void add_norm_gradients(std::span<const ChannelSums> sums, const NormParameters& parameters, float* scale_gradient, float* bias_gradient);

// bias_gradient[c] += Σ δ, for layers without batch norm.
void add_bias_gradients(std::span<const ChannelSums> sums, float* bias_gradient);

// Layers without batch norm: y[box] = activation(y + bias), in place. biases may be null (no bias: shortcut).
void bias_activate(FloatView y, const float* biases, Activation activation, const Box& box, base::ThreadPool& pool);

// delta[box] *= activation'(y); sums[c].delta = Σ δ over `owned`, sums[c].delta_x = 0. `sums` may be empty (not wanted).
void activation_delta(FloatView delta, ConstFloatView y, Activation activation, const Box& box, const Box& owned,
                      std::span<ChannelSums> sums, base::ThreadPool& pool);

}  // namespace tessera::kernels
