// Convolutions whose channels are in groups: each group is a convolution of its own on some channels of the same tensors.
#include "base/check.hpp"
#include "kernels/convolution_backends.hpp"

namespace tessera::kernels {
namespace {

// The same cells under channel numbers that begin at `first`.
template <typename View>
View renumbered(View view, Index first) {
  view.box.c = {view.box.c.begin - first, view.box.c.end - first};
  return view;
}

// One object computes all groups, one after the other; the threads work inside of each.
class GroupedConvolution final : public Convolution {
 public:
  GroupedConvolution(const ConvolutionShape& shape, std::unique_ptr<Convolution> group)
      : Convolution(shape),
        group_(std::move(group)),
        inputs_(shape.group_inputs()),
        filters_(shape.group_filters()),
        filter_floats_(inputs_ * shape.kernel * shape.kernel) {}

  void forward(ConstFloatView input, const float* weights, FloatView output, const Box& compute) override {
    if (compute.empty()) return;
    check_forward(shape_, input, output, compute);
    for_groups(compute.c, filters_, [&](Index g, Range filters) {
      group_->forward(renumbered(input, g * inputs_), weights + (filters.begin - compute.c.begin) * filter_floats_,
                      renumbered(output, g * filters_), part(compute, filters, g * filters_));
    });
  }

  void backward_data(ConstFloatView delta_out, const float* weights, FloatView delta_in, const Box& compute, bool accumulate) override {
    if (compute.empty()) return;
    check_backward_data(shape_, delta_out, delta_in, compute);
    for_groups(compute.c, inputs_, [&](Index g, Range channels) {
      const Range filters = intersect(delta_out.box.c, {g * filters_, (g + 1) * filters_});
      // A group's deltas are dense within one sample only.
      for (Index n = compute.n.begin; n < compute.n.end; ++n) {
        Box box = part(compute, channels, g * inputs_);
        box.n = {n, n + 1};
        if (filters.empty() && !accumulate) clear(renumbered(delta_in, g * inputs_), box);
        if (filters.empty()) continue;
        Box some = delta_out.box;
        some.n = box.n, some.c = filters;
        const ConstFloatView delta{&delta_out.at(n, filters.begin, some.y.begin, some.x.begin), some};
        group_->backward_data(renumbered(delta, g * filters_), weights + (filters.begin - delta_out.box.c.begin) * filter_floats_,
                              renumbered(delta_in, g * inputs_), box, accumulate);
      }
    });
  }

  void backward_weights(ConstFloatView input, ConstFloatView delta_out, const Box& delta_box, float* gradient) override {
    if (delta_box.empty()) return;
    check_backward_weights(shape_, input, delta_out, delta_box);
    for_groups(delta_box.c, filters_, [&](Index g, Range filters) {
      group_->backward_weights(renumbered(input, g * inputs_), renumbered(delta_out, g * filters_), part(delta_box, filters, g * filters_),
                               gradient + (filters.begin - delta_box.c.begin) * filter_floats_);
    });
  }

  void weights_changed() override { group_->weights_changed(); }
  std::size_t resident_bytes() const override { return group_->resident_bytes(); }
  std::uint64_t conversion_bytes() const override { return group_->conversion_bytes(); }
  Backend backend() const override { return group_->backend(); }

  // Some channels of some group may be more than what is left of `work` for any one; no group needs more than all of its own.
  std::size_t scratch_bytes(const ConvolutionWork& work) override {
    ConvolutionWork of_group = work;
    of_group.forward.c = of_group.backward_weights.c = {0, filters_};
    of_group.backward_data.c = {0, inputs_};
    of_group.backward_filters = {};
    return group_->scratch_bytes(of_group);
  }

 private:
  // Calls body(group, its part of `channels`).
  template <typename Body>
  static void for_groups(Range channels, Index size, const Body& body) {
    for (Index g = channels.begin / size; g * size < channels.end; ++g) body(g, intersect(channels, Range{g * size, (g + 1) * size}));
  }

  static Box part(Box box, Range channels, Index first) {
    box.c = {channels.begin - first, channels.end - first};
    return box;
  }

  static void clear(const FloatView& view, const Box& box) {
    for (Index c = box.c.begin; c < box.c.end; ++c)
      for (Index y = box.y.begin; y < box.y.end; ++y) std::fill_n(&view.at(box.n.begin, c, y, box.x.begin), box.x.size(), 0.f);
  }

  std::unique_ptr<Convolution> group_;
  Index inputs_, filters_, filter_floats_;
};

// One input channel a group: rows are added up with one weight at a time, nothing is copied.
class DepthwiseConvolution final : public Convolution {
 public:
  DepthwiseConvolution(Backend backend, const ConvolutionShape& shape, base::ThreadPool& pool)
      : Convolution(shape),
        backend_(backend),
        pool_(pool),
        rows_(shape.rows()),
        columns_(shape.columns()),
        filters_(shape.group_filters()) {}

  void forward(ConstFloatView input, const float* weights, FloatView output, const Box& compute) override {
    if (compute.empty()) return;
    check_forward(shape_, input, output, compute);
    for_planes(compute, [&](Index n, Index k) {
      for (Index y = compute.y.begin; y < compute.y.end; ++y) {
        float* row = &output.at(n, k, y, compute.x.begin);
        std::fill_n(row, compute.x.size(), 0.f);
        for_taps(y, compute.x, [&](int tap, Index in_y, Index in_x, Range outs) {
          add_row(weights[(k - compute.c.begin) * taps() + tap], &input.at(n, k / filters_, in_y, in_x), columns_.stride,
                  row + (outs.begin - compute.x.begin), 1, outs.size());
        });
      }
    });
  }

  void backward_data(ConstFloatView delta_out, const float* weights, FloatView delta_in, const Box& compute, bool accumulate) override {
    if (compute.empty()) return;
    check_backward_data(shape_, delta_out, delta_in, compute);
    const Range out_y = output_range(rows_, compute.y, shape_.out_y()), out_x{0, shape_.out_x()};
    for_planes(compute, [&](Index n, Index c) {
      for (Index y = compute.y.begin; y < compute.y.end && !accumulate; ++y)
        std::fill_n(&delta_in.at(n, c, y, compute.x.begin), compute.x.size(), 0.f);
      const Range filters = intersect(delta_out.box.c, Range{c * filters_, (c + 1) * filters_});
      for (Index k = filters.begin; k < filters.end; ++k)
        for (Index y = out_y.begin; y < out_y.end; ++y)
          for (int tap = 0; tap < taps(); ++tap) {
            const Index in_y = rows_.begin(y) + tap / shape_.kernel * rows_.apart, kx = tap % shape_.kernel;
            const Range outs = tap_range(columns_, kx, out_x, compute.x);
            if (in_y < compute.y.begin || in_y >= compute.y.end || outs.empty()) continue;
            add_row(weights[(k - delta_out.box.c.begin) * taps() + tap], &delta_out.at(n, k, y, outs.begin), 1,
                    &delta_in.at(n, c, in_y, columns_.begin(outs.begin) + kx * columns_.apart), columns_.stride, outs.size());
          }
    });
  }

  void backward_weights(ConstFloatView input, ConstFloatView delta_out, const Box& delta_box, float* gradient) override {
    if (delta_box.empty()) return;
    check_backward_weights(shape_, input, delta_out, delta_box);
    pool_.parallel_for(delta_box.c.size(), [&](std::ptrdiff_t filter, int) {
      const Index k = delta_box.c.begin + filter;
      std::vector<double> sums(static_cast<std::size_t>(taps()));
      for (Index n = delta_box.n.begin; n < delta_box.n.end; ++n)
        for (Index y = delta_box.y.begin; y < delta_box.y.end; ++y)
          for_taps(y, delta_box.x, [&](int tap, Index in_y, Index in_x, Range outs) {
            sums[static_cast<std::size_t>(tap)] +=
                product(&delta_out.at(n, k, y, outs.begin), &input.at(n, k / filters_, in_y, in_x), columns_.stride, outs.size());
          });
      for (int tap = 0; tap < taps(); ++tap) gradient[filter * taps() + tap] += static_cast<float>(sums[static_cast<std::size_t>(tap)]);
    });
  }

  void weights_changed() override {}
  std::size_t scratch_bytes(const ConvolutionWork&) override { return 0; }
  std::size_t resident_bytes() const override { return 0; }
  Backend backend() const override { return backend_; }

 private:
  int taps() const { return shape_.kernel * shape_.kernel; }

  template <typename Body>
  void for_planes(const Box& box, const Body& body) {
    pool_.parallel_for(box.n.size() * box.c.size(),
                       [&](std::ptrdiff_t plane, int) { body(box.n.begin + plane / box.c.size(), box.c.begin + plane % box.c.size()); });
  }

  // Calls body(tap, input row, first input column, outputs of `x` that see the image) for the taps of row `y` that do.
  template <typename Body>
  void for_taps(Index y, Range x, const Body& body) const {
    for (int tap = 0; tap < taps(); ++tap) {
      const Index in_y = rows_.begin(y) + tap / shape_.kernel * rows_.apart, kx = tap % shape_.kernel;
      const Range outs = tap_range(columns_, kx, x, {0, shape_.in_x});
      if (in_y >= 0 && in_y < shape_.in_y && !outs.empty()) body(tap, in_y, columns_.begin(outs.begin) + kx * columns_.apart, outs);
    }
  }

  static void add_row(float weight, const float* __restrict source, Index source_step, float* __restrict target, Index target_step,
                      Index count) {
    if (source_step == 1 && target_step == 1)
      for (Index i = 0; i < count; ++i) target[i] += weight * source[i];
    else
      for (Index i = 0; i < count; ++i) target[i * target_step] += weight * source[i * source_step];
  }

  static double product(const float* a, const float* b, Index step, Index count) {
    constexpr Index kLanes = 8;
    float lanes[kLanes] = {};
    const Index whole = step == 1 ? count / kLanes * kLanes : 0;
    for (Index i = 0; i < whole; i += kLanes)
      for (Index lane = 0; lane < kLanes; ++lane) lanes[lane] += a[i + lane] * b[i + lane];
    double sum = 0;
    for (const float lane : lanes) sum += lane;
    for (Index i = whole; i < count; ++i) sum += static_cast<double>(a[i]) * b[i * step];
    return sum;
  }

  Backend backend_;
  base::ThreadPool& pool_;
  geometry::Window rows_, columns_;
  Index filters_;  // that read one channel
};

}  // namespace

std::unique_ptr<Convolution> make_grouped_convolution(Backend backend, const ConvolutionShape& shape, base::ThreadPool& pool,
                                                      const MakeGroup& make) {
  if (shape.group_inputs() == 1) return std::make_unique<DepthwiseConvolution>(backend, shape, pool);
  ConvolutionShape group = shape;
  group.in_c = shape.group_inputs(), group.out_c = shape.group_filters(), group.groups = 1;
  return std::make_unique<GroupedConvolution>(shape, make(group));
}

}  // namespace tessera::kernels
