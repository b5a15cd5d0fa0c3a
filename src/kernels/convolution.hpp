// Convolution of tiles: forward, gradient of the data, gradient of the weights.
//
// Views are dense pieces of tensors in global coordinates (geometry/tensor_view.hpp). A call computes one box and
// touches nothing outside it. Cells outside the image, i.e. outside [0, in_y) x [0, in_x) or the output's
// [0, out_y) x [0, out_x), count as zero and are never read. Weights are [out_c][in_c / groups][kernel][kernel], as in
// Darknet's files. Formulas: Darknet's convolutional_layer.c (im2col, gemm, col2im) as sums.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "base/thread_pool.hpp"
#include "geometry/tensor_view.hpp"
#include "geometry/window.hpp"
#include "kernels/scratch.hpp"

namespace tessera::kernels {

using geometry::Box;
using geometry::ConstFloatView;
using geometry::FloatView;
using geometry::Index;
using geometry::Range;

struct ConvolutionShape {
  Index in_c = 0, in_y = 0, in_x = 0;
  Index out_c = 0;
  int kernel = 1;
  int stride = 1;
  int pad = 0;       // zeros on every side of the image
  int stride_x = 0;  // along columns; 0: as along rows
  int dilation = 1;  // cells from one weight to the next
  int groups = 1;    // of channels, each with filters of its own

  geometry::Window rows() const { return {kernel, stride, pad, dilation}; }
  geometry::Window columns() const { return {kernel, stride_x ? stride_x : stride, pad, dilation}; }
  Index out_y() const { return rows().outputs(in_y, 2 * Index{pad}); }
  Index out_x() const { return columns().outputs(in_x, 2 * Index{pad}); }
  // Of one group.
  Index group_inputs() const { return in_c / groups; }
  Index group_filters() const { return out_c / groups; }
  Range read_by(Range filters) const { return grouped_range(filters, group_filters(), group_inputs()); }
  Index weight_elements() const { return out_c * group_inputs() * kernel * kernel; }
  // Weights lie side by side, as far apart along rows as along columns: what all backends compute.
  bool is_dense() const { return dilation == 1 && columns().stride == stride && groups == 1; }
  friend bool operator==(const ConvolutionShape&, const ConvolutionShape&) = default;
};

enum class Backend {
  kReference,  // scalar loops, the definition
  kBlas,       // OpenBLAS sgemm on blocks of rows
  kOnednn,     // oneDNN primitives on blocks of rows, blocked layouts inside; 1x1 layers as kBlas
};

std::string_view to_string(Backend backend);
[[nodiscard]] base::Result<Backend> backend_from_string(std::string_view name);
// Backends compiled into this program, slowest first.
std::vector<Backend> built_backends();

// The boxes each pass of a layer will be called with (empty: never called).
struct ConvolutionWork {
  Box forward;                  // of the output
  Box backward_data;            // of the input
  Range backward_filters = {};  // from which of them; empty: all
  Box backward_weights;         // of the output
};

// One object per (layer, backend). Calls come from one thread at a time and use the pool given at construction.
// For one backend, thread count and box the results are bit-identical on every run; they never depend on timing.
// The same holds for views of different size that hold the same values.
class Convolution {
 public:
  virtual ~Convolution() = default;

  // output[compute] = convolution, overwritten. compute: box of the output (compute.c may be some channels only);
  // output holds it. input holds the channels that it reads (of whole groups) and the input windows of compute.y and compute.x. `weights` begins with the
  // filter compute.c.begin.
  virtual void forward(ConstFloatView input, const float* weights, FloatView output, const Box& compute) = 0;

  // delta_in[compute] = (or += when accumulate) gradient from the channels delta_out.box.c: all of them, or
  // some when the layer is cut along c and the caller adds up the partial results. compute: box of the input.
  // delta_out holds the output windows of compute.y and compute.x. `weights` begins with the filter delta_out.box.c.begin. Darknet's own 1x1 layers overwrite: the caller
  // passes accumulate = false for them.
  virtual void backward_data(ConstFloatView delta_out, const float* weights, FloatView delta_in, const Box& compute, bool accumulate) = 0;

  // gradient[delta_box.c][in_c][kernel][kernel] += sum over the cells of delta_box (box of the output; `gradient` begins
  // with the filter delta_box.c.begin). input holds the channels that it reads and the input windows of delta_box.
  virtual void backward_weights(ConstFloatView input, ConstFloatView delta_out, const Box& delta_box, float* gradient) = 0;

  // To be called after the values behind a `weights` pointer changed (update, load): packed copies are dropped.
  virtual void weights_changed() = 0;

  // Upper bound of the scratch that calls with these boxes take, whatever the views. Scratch is shared: reserve the
  // maximum over all layers and boxes before the first call.
  virtual std::size_t scratch_bytes(const ConvolutionWork& work) = 0;

  // Memory this object keeps between calls after such calls (packed weights): 0 unless keep_packed was asked for.
  virtual std::size_t resident_bytes() const = 0;

  // Bytes read and written so far to bring tensors and weights into a layout of the backend's own and back: 0 for
  // backends that work on plain tensors.
  virtual std::uint64_t conversion_bytes() const { return 0; }

  virtual Backend backend() const = 0;
  const ConvolutionShape& shape() const { return shape_; }

 protected:
  explicit Convolution(const ConvolutionShape& shape) : shape_(shape) {}
  ConvolutionShape shape_;
};

// Errors: kInvalidArgument when the backend is not built in or the shape is impossible. `pool` and `scratch` must
// outlive the object; scratch may be shared by objects that are not called concurrently. keep_packed: weights in a
// backend's own layout stay in memory (as much again as the weights) instead of being packed on every call; for
// inference.
[[nodiscard]] base::Result<std::unique_ptr<Convolution>> make_convolution(Backend backend, const ConvolutionShape& shape,
                                                                          base::ThreadPool& pool, Scratch& scratch,
                                                                          bool keep_packed = false);

}  // namespace tessera::kernels
