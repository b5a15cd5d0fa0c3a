// Kernels that move, scale or add cells: copies, route, shortcut, upsample, reorg.
// Each writes exactly the cells of the box it is given. Formulas: the Darknet functions named below.
#pragma once

#include <cstddef>
#include <span>

#include "base/thread_pool.hpp"
#include "geometry/tensor_view.hpp"

namespace tessera::kernels {

using geometry::Box;
using geometry::ConstFloatView;
using geometry::FloatView;
using geometry::Index;
using geometry::Range;
using geometry::Shape;

void fill(FloatView view, const Box& box, float value, base::ThreadPool& pool);

// target[box] = source[box]; target[box] += factor * source[box].
void copy(ConstFloatView source, FloatView target, const Box& box, base::ThreadPool& pool);
void add(ConstFloatView source, FloatView target, const Box& box, float factor, base::ThreadPool& pool);

// A box to or from contiguous row-major memory of box.elements() floats (message payloads; no alignment needed).
void pack(ConstFloatView source, const Box& box, std::span<std::byte> bytes, base::ThreadPool& pool);
void unpack(std::span<const std::byte> bytes, FloatView target, const Box& box, base::ThreadPool& pool);
void unpack_add(std::span<const std::byte> bytes, FloatView target, const Box& box, base::ThreadPool& pool);

// Route (route_layer.c): channel c of one input is channel c + offset of the output.
// forward: output[box] = input, box of the output (within that input's channels); backward: delta_in[box] += (or =)
// delta_out, box of the input, of which only `channels` are in the output: others get 0 when not accumulating.
void route_forward(ConstFloatView input, Index channel_offset, FloatView output, const Box& box, base::ThreadPool& pool);
void route_backward(ConstFloatView delta_out, Index channel_offset, Range channels, FloatView delta_in, const Box& box, bool accumulate,
                    base::ThreadPool& pool);

// Shortcut (shortcut_layer.c, shortcut_cpu): out = in, then on the cells that both tensors have,
// out = alpha * out + beta * from. Shapes may differ: from (y, x) * stride pairs with out (y, x) * sample, where
// stride = from size / out size and sample = out size / from size (integer, at least 1); channels: the smaller number.
struct ShortcutShape {
  Shape from, out;
  float alpha = 1, beta = 1;
};
// The cells of `from` that the cells of `out` in box need, as a box (hull; may be empty), and the other way round.
Box shortcut_from_box(const ShortcutShape& shape, const Box& out_box);
Box shortcut_out_box(const ShortcutShape& shape, const Box& from_box);
// output[box]; input holds box, from holds shortcut_from_box(box). output may be input (same data). No activation.
void shortcut_forward(const ShortcutShape& shape, ConstFloatView input, ConstFloatView from, FloatView output, const Box& box,
                      base::ThreadPool& pool);
// delta_in[box] += (accumulate) or = alpha * delta_out, on every cell as Darknet does, also those that forward did not
// scale.
void shortcut_backward_input(const ShortcutShape& shape, ConstFloatView delta_out, FloatView delta_in, const Box& box, bool accumulate,
                             base::ThreadPool& pool);
// delta_from[box] += beta * delta_out at the paired cells; cells without a pair get 0 when not accumulating.
void shortcut_backward_from(const ShortcutShape& shape, ConstFloatView delta_out, FloatView delta_from, const Box& box, bool accumulate,
                            base::ThreadPool& pool);

// Upsample (upsample_layer.c): out(y, x) = scale * in(y / stride, x / stride); backward sums the stride x stride cells.
// reverse (stride < 0 in a cfg): out(y, x) = scale * sum of in's stride x stride cells; backward spreads. Upstream's
// reverse backward writes net.delta without adding: pass accumulate = false there.
struct UpsampleShape {
  int stride = 2;
  float scale = 1;
  bool reverse = false;
};
void upsample_forward(const UpsampleShape& shape, ConstFloatView input, FloatView output, const Box& box, base::ThreadPool& pool);
void upsample_backward(const UpsampleShape& shape, ConstFloatView delta_out, FloatView delta_in, const Box& box, bool accumulate,
                       base::ThreadPool& pool);

// Reorg (reorg_layer.c, reorg_cpu, neither flatten nor extra): a permutation of each sample's memory. Darknet's layout
// mixes rows and channels: neighbouring outputs come from far apart. Upstream's backward OVERWRITES the delta of its
// input; contributions of consumers with a higher layer number are lost. reorg_backward does the same.
struct ReorgShape {
  Shape in;
  int stride = 2;
  bool reverse = false;

  // Channels must divide by stride * stride, and rows and columns by stride unless reverse; Darknet reads or writes
  // outside its arrays otherwise. The functions below require it.
  bool valid() const;
  Shape out() const;
};
struct Cell {
  Index c = 0, y = 0, x = 0;
  friend bool operator==(const Cell&, const Cell&) = default;
};
// Where output cell `out` comes from, and where input cell `in` goes: inverse of each other.
Cell reorg_source(const ReorgShape& shape, Cell out);
Cell reorg_target(const ReorgShape& shape, Cell in);
// Hull of the sources of an output box, of the targets of an input box.
Box reorg_source_box(const ReorgShape& shape, const Box& out_box);
Box reorg_target_box(const ReorgShape& shape, const Box& in_box);
void reorg_forward(const ReorgShape& shape, ConstFloatView input, FloatView output, const Box& box, base::ThreadPool& pool);
void reorg_backward(const ReorgShape& shape, ConstFloatView delta_out, FloatView delta_in, const Box& box, base::ThreadPool& pool);

}  // namespace tessera::kernels
