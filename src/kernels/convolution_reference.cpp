// The definition of the three passes: scalar loops, sums in double.
#include "kernels/convolution_backends.hpp"

namespace tessera::kernels {
namespace {

class ReferenceConvolution final : public Convolution {
 public:
  ReferenceConvolution(const ConvolutionShape& shape, base::ThreadPool& pool)
      : Convolution(shape), pool_(pool), rows_(shape.rows()), columns_(shape.columns()) {}

  void forward(ConstFloatView input, const float* weights, FloatView output, const Box& compute) override {
    if (compute.empty()) return;
    check_forward(shape_, input, output, compute);
    for_planes(compute, [&](Index n, Index k) {
      const Range inputs = shape_.read_by({k, k + 1});
      for (Index y = compute.y.begin; y < compute.y.end; ++y)
        for (Index x = compute.x.begin; x < compute.x.end; ++x) {
          double sum = 0;
          for (Index c = inputs.begin; c < inputs.end; ++c)
            for (int ky = 0; ky < shape_.kernel; ++ky)
              for (int kx = 0; kx < shape_.kernel; ++kx) {
                const Index in_y = rows_.begin(y) + ky * rows_.apart, in_x = columns_.begin(x) + kx * columns_.apart;
                if (in_image(in_y, in_x))
                  sum += static_cast<double>(weights[weight(k - compute.c.begin, c - inputs.begin, ky, kx)]) * input.at(n, c, in_y, in_x);
              }
          output.at(n, k, y, x) = static_cast<float>(sum);
        }
    });
  }

  void backward_data(ConstFloatView delta_out, const float* weights, FloatView delta_in, const Box& compute, bool accumulate) override {
    if (compute.empty()) return;
    check_backward_data(shape_, delta_out, delta_in, compute);
    for_planes(compute, [&](Index n, Index c) {
      const Range filters = intersect(delta_out.box.c, geometry::grouped_range({c, c + 1}, shape_.group_inputs(), shape_.group_filters()));
      for (Index y = compute.y.begin; y < compute.y.end; ++y)
        for (Index x = compute.x.begin; x < compute.x.end; ++x) {
          const Range rows = output_range(shape_.rows(), {y, y + 1}, shape_.out_y());
          const Range columns = output_range(shape_.columns(), {x, x + 1}, shape_.out_x());
          double sum = accumulate ? delta_in.at(n, c, y, x) : 0;
          for (Index k = filters.begin; k < filters.end; ++k)
            for (Index out_y = rows.begin; out_y < rows.end; ++out_y)
              for (Index out_x = columns.begin; out_x < columns.end; ++out_x) {
                const Index ky = y - rows_.begin(out_y), kx = x - columns_.begin(out_x);
                if (ky % rows_.apart != 0 || kx % columns_.apart != 0) continue;
                sum += static_cast<double>(
                           weights[weight(k - delta_out.box.c.begin, c % shape_.group_inputs(), ky / rows_.apart, kx / columns_.apart)]) *
                       delta_out.at(n, k, out_y, out_x);
              }
          delta_in.at(n, c, y, x) = static_cast<float>(sum);
        }
    });
  }

  void backward_weights(ConstFloatView input, ConstFloatView delta_out, const Box& delta_box, float* gradient) override {
    if (delta_box.empty()) return;
    check_backward_weights(shape_, input, delta_out, delta_box);
    pool_.parallel_for(delta_box.c.size(), [&](std::ptrdiff_t index, int) {
      const Index k = delta_box.c.begin + index;
      const Range inputs = shape_.read_by({k, k + 1});
      for (Index c = inputs.begin; c < inputs.end; ++c)
        for (int ky = 0; ky < shape_.kernel; ++ky)
          for (int kx = 0; kx < shape_.kernel; ++kx) {
            double sum = 0;
            for (Index n = delta_box.n.begin; n < delta_box.n.end; ++n)
              for (Index y = delta_box.y.begin; y < delta_box.y.end; ++y)
                for (Index x = delta_box.x.begin; x < delta_box.x.end; ++x) {
                  const Index in_y = rows_.begin(y) + ky * rows_.apart, in_x = columns_.begin(x) + kx * columns_.apart;
                  if (in_image(in_y, in_x)) sum += static_cast<double>(delta_out.at(n, k, y, x)) * input.at(n, c, in_y, in_x);
                }
            gradient[weight(index, c - inputs.begin, ky, kx)] += static_cast<float>(sum);
          }
    });
  }

  void weights_changed() override {}
  std::size_t scratch_bytes(const ConvolutionWork&) override { return 0; }
  std::size_t resident_bytes() const override { return 0; }
  Backend backend() const override { return Backend::kReference; }

 private:
  bool in_image(Index y, Index x) const { return y >= 0 && y < shape_.in_y && x >= 0 && x < shape_.in_x; }
  Index weight(Index k, Index c, Index ky, Index kx) const {
    return ((k * shape_.group_inputs() + c) * shape_.kernel + ky) * shape_.kernel + kx;
  }

  template <typename Body>
  void for_planes(const Box& box, const Body& body) {
    pool_.parallel_for(box.n.size() * box.c.size(),
                       [&](std::ptrdiff_t plane, int) { body(box.n.begin + plane / box.c.size(), box.c.begin + plane % box.c.size()); });
  }

  base::ThreadPool& pool_;
  geometry::Window rows_, columns_;
};

}  // namespace

std::unique_ptr<Convolution> make_reference_convolution(const ConvolutionShape& shape, base::ThreadPool& pool) {
  return std::make_unique<ReferenceConvolution>(shape, pool);
}

}  // namespace tessera::kernels
