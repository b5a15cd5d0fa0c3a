// Convolution as matrix products by OpenBLAS, on blocks of rows that stay in the second-level cache. Each thread of the
// pool calls single-threaded sgemm on blocks of its own.
//
//   forward           output[out_c][cells]        = weights[out_c][in_c k k] · columns[in_c k k][cells]
//   backward data     columns[in_c k k][cells]    = weightsᵀ · delta[out_c][cells], then col2im
//   backward weights  gradient[out_c][in_c k k]  += delta[out_c][cells] · columnsᵀ
//
// For kernel 1, stride 1, pad 0 the columns are the input itself. How work is cut depends on the layer, the box and the
// number of threads only, so results do, too.
#include <cblas.h>

#include <mutex>
#include <numeric>

#include "kernels/convolution_backends.hpp"
#include "kernels/convolution_columns.hpp"

namespace tessera::kernels {
namespace {

// Columns of one block: half of a large second-level cache; the product streams them once.
constexpr Index kColumnFloats = 128 * 1024;
// Cells of one block: enough for sgemm to be at full speed, few enough that a layer has work for all threads.
constexpr Index kMinCells = 512, kMaxCells = 2048;
// Fewest channels for a thread where a block's channels are shared between threads.
constexpr Index kLeastChannels = 16;
// A sample with fewer cells is taken together with the next ones in backward weights.
constexpr Index kFewCells = 128;
// Gradients up to this size are summed per thread over a part of the map; larger ones are cut between threads.
constexpr Index kPrivateGradientFloats = 256 * 1024;

Index divide_up(Index a, Index b) { return (a + b - 1) / b; }
Index aligned(Index floats) { return static_cast<Index>(align_up(static_cast<std::size_t>(floats) * sizeof(float)) / sizeof(float)); }

struct Matrix {
  const float* data;
  Index stride;
};

void multiply(bool transpose_a, bool transpose_b, Index m, Index n, Index k, Matrix a, Matrix b, bool accumulate, float* c,
              Index c_stride) {
  cblas_sgemm(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans, transpose_b ? CblasTrans : CblasNoTrans, static_cast<int>(m),
              static_cast<int>(n), static_cast<int>(k), 1, a.data, static_cast<int>(a.stride), b.data, static_cast<int>(b.stride),
              accumulate ? 1.f : 0.f, c, static_cast<int>(c_stride));
}

Index plane(const Box& box) { return box.y.size() * box.x.size(); }

// The rows of a box, sample after sample, are numbered from 0. Calls body(n, y, rows, cell) for the pieces of rows
// [begin, end) that lie in one sample; `cell` counts the cells before the piece.
template <typename Body>
void for_pieces(const Box& box, Index begin, Index end, const Body& body) {
  Index cell = 0;
  for (Index row = begin; row < end;) {
    const Index n = row / box.y.size(), y = row % box.y.size(), rows = std::min(box.y.size() - y, end - row);
    body(box.n.begin + n, box.y.begin + y, rows, cell);
    row += rows;
    cell += rows * box.x.size();
  }
}

// How rows are handed out: blocks of rows, and parts of the channels where there are fewer blocks than threads.
struct Cut {
  Index rows;        // of a block
  Index per_sample;  // blocks of one sample; 0 when blocks go on into the next sample
  Index blocks, parts;
};

Range part_of(Range whole, Index part, Index parts) {
  return {whole.begin + whole.size() * part / parts, whole.begin + whole.size() * (part + 1) / parts};
}

class BlasConvolution final : public Convolution {
 public:
  BlasConvolution(Backend backend, const ConvolutionShape& shape, base::ThreadPool& pool, Scratch& scratch)
      : Convolution(shape),
        backend_(backend),
        pool_(pool),
        scratch_(scratch),
        taps_(shape.kernel * shape.kernel),
        depth_(shape.in_c * taps_),
        plain_(columns_are_input(shape)) {}

  void forward(ConstFloatView input, const float* weights, FloatView output, const Box& compute) override {
    if (compute.empty()) return;
    check_forward(shape_, input, output, compute);
    const Cut cut = cut_rows(compute, depth_);
    for_blocks(cut, compute, forward_floats(compute), [&](Index begin, Index end, Range filters, float* memory) {
      if (plain_) {
        const Matrix left{weights + (filters.begin - compute.c.begin) * depth_, depth_};
        plain_block(false, left, input, {0, shape_.in_c}, output, filters, compute, begin, end, false, memory);
      } else {
        forward_block(input, weights, output, compute, begin, end, filters, memory);
      }
    });
  }

  void backward_data(ConstFloatView delta_out, const float* weights, FloatView delta_in, const Box& compute, bool accumulate) override {
    if (compute.empty()) return;
    check_backward_data(shape_, delta_out, delta_in, compute);
    const Range filters = delta_out.box.c;
    const Index per_thread = backward_data_floats(compute);
    if (plain_) {
      const Cut cut = cut_rows(compute, filters.size());
      for_blocks(cut, compute, per_thread, [&](Index begin, Index end, Range channels, float* memory) {
        const Matrix left{weights + channels.begin, depth_};
        plain_block(true, left, delta_out, filters, delta_in, channels, compute, begin, end, accumulate, memory);
      });
      return;
    }
    // One sample and some input channels are a task, so that no two threads add to the same cell.
    float* memory = take(per_thread);
    const Index samples = compute.n.size();
    const Index parts = std::min<Index>(compute.c.size(), pool_.size() / std::gcd<Index, Index>(samples, pool_.size()));
    pool_.parallel_for(samples * parts, [&](std::ptrdiff_t task, int thread) {
      Box box = compute;
      box.n = {compute.n.begin + task / parts, compute.n.begin + task / parts + 1};
      box.c = part_of(compute.c, task % parts, parts);
      backward_data_sample(delta_out, weights, delta_in, box, accumulate, memory + thread * per_thread);
    });
  }

  void backward_weights(ConstFloatView input, ConstFloatView delta_out, const Box& delta_box, float* gradient) override {
    if (delta_box.empty()) return;
    check_backward_weights(shape_, input, delta_out, delta_box);
    const Index per_thread = gradient_floats(delta_box), size = delta_box.c.size() * depth_;
    const Range rows{0, delta_box.n.size() * delta_box.y.size()};
    if (size > kPrivateGradientFloats) {
      float* memory = take(per_thread);
      const Index parts = std::min<Index>(shape_.in_c, pool_.size());
      pool_.parallel_for(parts, [&](std::ptrdiff_t part, int thread) {
        gradient_block(input, delta_out, delta_box, rows, part_of({0, shape_.in_c}, part, parts), gradient, memory + thread * per_thread);
      });
      return;
    }
    // A share of the rows and a gradient per thread, added up in order.
    const Index shares = std::min<Index>(pool_.size(), rows.size());
    float* memory = take(per_thread + aligned(size));
    float* sums = memory + per_thread * pool_.size();
    pool_.parallel_for(shares, [&](std::ptrdiff_t share, int thread) {
      float* sum = sums + share * aligned(size);
      std::fill(sum, sum + size, 0.f);
      gradient_block(input, delta_out, delta_box, part_of(rows, share, shares), {0, shape_.in_c}, sum, memory + thread * per_thread);
    });
    for (Index share = 0; share < shares; ++share) {
      const float* __restrict sum = sums + share * aligned(size);
      for (Index i = 0; i < size; ++i) gradient[i] += sum[i];
    }
  }

  void weights_changed() override {}
  std::size_t resident_bytes() const override { return 0; }
  Backend backend() const override { return backend_; }

  std::size_t scratch_bytes(const ConvolutionWork& work) override {
    Index floats = 0;
    if (!work.forward.empty()) floats = forward_floats(work.forward);
    if (!work.backward_data.empty()) floats = std::max(floats, backward_data_floats(work.backward_data));
    if (!work.backward_weights.empty()) {
      const Box& box = work.backward_weights;
      floats = std::max(floats, gradient_floats(box) + aligned(std::min(box.c.size() * depth_, kPrivateGradientFloats)));
    }
    return static_cast<std::size_t>(floats * pool_.size()) * sizeof(float);
  }

 private:
  float* take(Index floats_per_thread) {
    return reinterpret_cast<float*>(scratch_.take(static_cast<std::size_t>(floats_per_thread * pool_.size()) * sizeof(float)));
  }

  // Cells of a block in forward (and plain backward data): columns that fit, or one row. No box gives a larger block.
  static Index most_cells(Index depth) { return std::clamp(kColumnFloats / depth, kMinCells, kMaxCells); }

  Cut cut_rows(const Box& box, Index depth) const {
    // The input is the matrix of a plain block only as far as one sample goes.
    const Index samples = plain_ ? box.n.size() : 1;
    const Index total = plain_ ? box.y.size() : box.n.size() * box.y.size();
    const Index most = std::clamp<Index>(most_cells(depth) / box.x.size(), 1, total);
    // A multiple of the threads, so that all finish together.
    const Index blocks = divide_up(samples * divide_up(total, most), pool_.size()) * pool_.size();
    const Index rows = divide_up(total, std::min(total, divide_up(blocks, samples)));
    const Index pieces = divide_up(total, rows);
    Cut cut{rows, plain_ ? pieces : 0, samples * pieces, 1};
    if (cut.blocks < pool_.size())
      cut.parts = std::min<Index>(divide_up(pool_.size(), cut.blocks), divide_up(box.c.size(), kLeastChannels));
    return cut;
  }

  // Calls body(first row, end row, channels, memory of the thread) for every block and part.
  template <typename Body>
  void for_blocks(const Cut& cut, const Box& box, Index per_thread, const Body& body) {
    float* memory = take(per_thread);
    pool_.parallel_for(cut.blocks * cut.parts, [&](std::ptrdiff_t task, int thread) {
      const Index block = task / cut.parts;
      Index first = 0, row = block * cut.rows, rows = box.n.size() * box.y.size();
      if (cut.per_sample != 0) {
        first = block / cut.per_sample * box.y.size();
        row = block % cut.per_sample * cut.rows;
        rows = box.y.size();
      }
      body(first + row, first + std::min(row + cut.rows, rows), part_of(box.c, task % cut.parts, cut.parts), memory + thread * per_thread);
    });
  }

  // Memory for the columns of as many channels as are gathered at once.
  Index columns_floats(Index channels, Index cells) const {
    return aligned(std::min(std::max(kColumnFloats, taps_ * cells), channels * taps_ * cells));
  }
  Index channels_at_once(Index cells) const { return std::max<Index>(1, kColumnFloats / (taps_ * cells)); }

  Index forward_floats(const Box& box) const {
    const Index cells = std::max(most_cells(depth_), box.x.size());
    return (plain_ ? aligned(depth_ * cells) : columns_floats(shape_.in_c, cells)) + aligned(box.c.size() * cells);
  }

  // target[rows of the block] (+)= left · source. Neither is copied where its rows are adjacent. The block lies in one
  // sample, so there is one piece.
  static void plain_block(bool transpose, Matrix left, const ConstFloatView& source, Range depth, const FloatView& target, Range channels,
                          const Box& compute, Index begin, Index end, bool accumulate, float* memory) {
    for_pieces(compute, begin, end, [&](Index n, Index y, Index rows, Index) {
      const Index cells = rows * compute.x.size();
      Matrix right{memory, cells};
      if (source.box.x == compute.x) {
        right = {&source.at(n, depth.begin, y, compute.x.begin), plane(source.box)};
      } else {
        gather_rows(source, n, depth, y, rows, compute.x, memory, cells);
        memory += aligned(depth.size() * cells);
      }
      if (target.box.x == compute.x) {
        multiply(transpose, false, channels.size(), cells, depth.size(), left, right, accumulate,
                 &target.at(n, channels.begin, y, compute.x.begin), plane(target.box));
      } else {
        // Old values take part in the product as they do without a copy, for equal bits.
        if (accumulate) gather_rows(target, n, channels, y, rows, compute.x, memory, cells);
        multiply(transpose, false, channels.size(), cells, depth.size(), left, right, accumulate, memory, cells);
        scatter_rows(memory, cells, target, n, channels, y, rows, compute.x, false);
      }
    });
  }

  void forward_block(const ConstFloatView& input, const float* weights, const FloatView& output, const Box& compute, Index begin, Index end,
                     Range filters, float* memory) const {
    const Index cells = (end - begin) * compute.x.size();
    float* result = memory + columns_floats(shape_.in_c, cells);
    Index result_stride = cells;
    const bool one_sample = begin / compute.y.size() == (end - 1) / compute.y.size();
    const bool direct = one_sample && output.box.x == compute.x;
    if (direct) {
      const Index n = compute.n.begin + begin / compute.y.size(), y = compute.y.begin + begin % compute.y.size();
      result = &output.at(n, filters.begin, y, compute.x.begin);
      result_stride = plane(output.box);
    }
    const Index at_once = channels_at_once(cells);
    for (Index c = 0; c < shape_.in_c; c += at_once) {
      const Range channels{c, std::min(c + at_once, shape_.in_c)};
      for_pieces(compute, begin, end, [&](Index n, Index y, Index rows, Index cell) {
        gather_columns(shape_, input, n, channels, y, rows, compute.x, memory + cell, cells);
      });
      multiply(false, false, filters.size(), cells, channels.size() * taps_,
               {weights + (filters.begin - compute.c.begin) * depth_ + c * taps_, depth_}, {memory, cells}, c > 0, result, result_stride);
    }
    if (direct) return;
    for_pieces(compute, begin, end, [&](Index n, Index y, Index rows, Index cell) {
      scatter_rows(result + cell, cells, output, n, filters, y, rows, compute.x, false);
    });
  }

  Index backward_data_floats(const Box& box) const {
    if (plain_) {
      const Index cells = std::max(kMaxCells, box.x.size());  // few filters' deltas make blocks of kMaxCells
      return aligned(std::max(shape_.out_c * std::max(kMinCells, box.x.size()), kColumnFloats)) + aligned(box.c.size() * cells);
    }
    const Index width = std::min(shape_.out_x(), (box.x.size() + shape_.columns().reach() - 1) / shape_.columns().stride + 1);
    const Index cells = std::max(kMinCells, width);
    return columns_floats(box.c.size(), cells) + aligned(shape_.out_c * cells);
  }

  // `compute` is one sample and the channels of one task.
  void backward_data_sample(const ConstFloatView& delta_out, const float* weights, const FloatView& delta_in, const Box& compute,
                            bool accumulate, float* memory) const {
    const Index n = compute.n.begin;
    const Range x = output_range(shape_.columns(), compute.x, shape_.out_x()), y = output_range(shape_.rows(), compute.y, shape_.out_y());
    const Range filters = delta_out.box.c;
    const Index block = std::max<Index>(1, kMinCells / std::max<Index>(1, x.size()));
    const Index at_once = channels_at_once(std::max(kMinCells, x.size()));
    for (Index c = compute.c.begin; c < compute.c.end; c += at_once) {
      const Range channels{c, std::min(c + at_once, compute.c.end)};
      // Rows are set to zero just before the first addition, while they are about to be in the cache anyway.
      Index cleared = accumulate ? compute.y.end : compute.y.begin;
      const auto clear_until = [&](Index end) {
        for (end = std::min(end, compute.y.end); cleared < end; ++cleared)
          for (Index k = channels.begin; k < channels.end; ++k) {
            float* row = &delta_in.at(n, k, cleared, compute.x.begin);
            std::fill(row, row + compute.x.size(), 0.f);
          }
      };
      for (Index row = y.begin; row < y.end && !x.empty(); row += block) {
        const Index rows = std::min(block, y.end - row), cells = rows * x.size();
        clear_until(shape_.rows().begin(row + rows - 1) + shape_.rows().reach());
        Matrix right{memory + columns_floats(compute.c.size(), cells), cells};
        if (delta_out.box.x == x) {
          right = {&delta_out.at(n, filters.begin, row, x.begin), plane(delta_out.box)};
        } else {
          gather_rows(delta_out, n, filters, row, rows, x, memory + columns_floats(compute.c.size(), cells), cells);
        }
        multiply(true, false, channels.size() * taps_, cells, filters.size(), {weights + c * taps_, depth_}, right, false, memory, cells);
        scatter_columns(shape_, memory, cells, delta_in, n, channels, row, rows, x, compute);
      }
      clear_until(compute.y.end);
    }
  }

  Index gradient_floats(const Box& box) const {
    const Index cells = std::max(kMinCells, box.x.size());
    return columns_floats(shape_.in_c, cells) + aligned(box.c.size() * cells);
  }

  // gradient[filters of box][channels] += the product over rows `rows` of the box; `gradient` starts at box.c.begin.
  void gradient_block(const ConstFloatView& input, const ConstFloatView& delta_out, const Box& box, Range rows, Range channels,
                      float* gradient, float* memory) const {
    const Index width = box.x.size(), most = std::max<Index>(1, kMinCells / width);
    const bool merge = plane(box) < kFewCells;
    const Index at_once = channels_at_once(std::max(kMinCells, width));
    float* delta_copy = memory + columns_floats(shape_.in_c, std::max(kMinCells, width));
    for (Index c = channels.begin; c < channels.end; c += at_once) {
      const Range some{c, std::min(c + at_once, channels.end)};
      for (Index begin = rows.begin, end; begin < rows.end; begin = end) {
        end = std::min(begin + most, rows.end);
        const Index sample_end = (begin / box.y.size() + 1) * box.y.size();
        if (!merge) end = std::min(end, sample_end);
        const bool one_sample = end <= sample_end;
        const Index cells = (end - begin) * width;
        const Index n = box.n.begin + begin / box.y.size(), y = box.y.begin + begin % box.y.size();
        Matrix left{delta_copy, cells}, right{memory, cells};
        if (one_sample && delta_out.box.x == box.x) {
          left = {&delta_out.at(n, box.c.begin, y, box.x.begin), plane(delta_out.box)};
        } else {
          for_pieces(box, begin, end, [&](Index sample, Index row, Index count, Index cell) {
            gather_rows(delta_out, sample, box.c, row, count, box.x, delta_copy + cell, cells);
          });
        }
        if (plain_ && one_sample && input.box.x == box.x) {
          right = {&input.at(n, c, y, box.x.begin), plane(input.box)};
        } else {
          for_pieces(box, begin, end, [&](Index sample, Index row, Index count, Index cell) {
            gather_columns(shape_, input, sample, some, row, count, box.x, memory + cell, cells);
          });
        }
        multiply(false, true, box.c.size(), some.size() * taps_, cells, left, right, true, gradient + c * taps_, depth_);
      }
    }
  }

  Backend backend_;
  base::ThreadPool& pool_;
  Scratch& scratch_;
  Index taps_, depth_;
  bool plain_;
};

}  // namespace

bool columns_are_input(const ConvolutionShape& shape) {
  return shape.kernel == 1 && shape.stride == 1 && shape.pad == 0 && shape.is_dense();
}

std::string blas_version() { return openblas_get_config(); }

std::unique_ptr<Convolution> make_blas_convolution(Backend backend, const ConvolutionShape& shape, base::ThreadPool& pool,
                                                   Scratch& scratch) {
  // The pool's threads are the only ones: OpenBLAS must not start its own for each of them.
  static std::once_flag single;
  std::call_once(single, [] { openblas_set_num_threads(1); });
  return std::make_unique<BlasConvolution>(backend, shape, pool, scratch);
}

}  // namespace tessera::kernels
