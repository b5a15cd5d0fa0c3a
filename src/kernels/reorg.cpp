#include "base/check.hpp"
#include "kernels/elementwise.hpp"
#include "kernels/loops.hpp"

namespace tessera::kernels {
namespace {

Cell cell_at(const Shape& shape, Index offset) { return {offset / (shape.y * shape.x), offset / shape.x % shape.y, offset % shape.x}; }

Index offset_of(const Shape& shape, Cell cell) { return (cell.c * shape.y + cell.y) * shape.x + cell.x; }

// reorg_cpu pairs the "deep" cell (k, j, i) of a tensor of the input's shape with a cell of a "wide" tensor with
// stride * stride fewer channels and stride times more rows and columns. Forward reads wide memory into deep memory;
// reverse the other way. Neither need be the shape the layer declares for that memory, which is what makes
// Darknet's layout unusual.
Index wide_offset(const ReorgShape& shape, Cell deep) {
  const Index stride = shape.stride, wide_c = shape.in.c / (stride * stride);
  const Index part = deep.c / wide_c;
  return offset_of({wide_c, shape.in.y * stride, shape.in.x * stride},
                   {deep.c % wide_c, deep.y * stride + part / stride, deep.x * stride + part % stride});
}

Index deep_offset(const ReorgShape& shape, Index wide) {
  const Index stride = shape.stride, wide_c = shape.in.c / (stride * stride);
  const Cell cell = cell_at({wide_c, shape.in.y * stride, shape.in.x * stride}, wide);
  const Index part = cell.y % stride * stride + cell.x % stride;
  return offset_of(shape.in, {part * wide_c + cell.c, cell.y / stride, cell.x / stride});
}

template <typename Map>
Box mapped_hull(const Box& box, const Map& map) {
  if (box.empty()) return {};
  Box hull;
  for (Index c = box.c.begin; c < box.c.end; ++c)
    for (Index y = box.y.begin; y < box.y.end; ++y)
      for (Index x = box.x.begin; x < box.x.end; ++x) {
        const Cell cell = map(Cell{c, y, x});
        hull = geometry::hull(hull, {box.n, {cell.c, cell.c + 1}, {cell.y, cell.y + 1}, {cell.x, cell.x + 1}});
      }
  return hull;
}

template <typename Map>
void permute(ConstFloatView source, FloatView target, const Box& box, const Map& map, base::ThreadPool& pool) {
  for_rows(box, pool, [&](Index n, Index c, Index y, Index rows) {
    for (Index row = y; row < y + rows; ++row)
      for (Index x = box.x.begin; x < box.x.end; ++x) {
        const Cell from = map(Cell{c, row, x});
        target.at(n, c, row, x) = source.at(n, from.c, from.y, from.x);
      }
  });
}

void check_shape(const ReorgShape& shape) {
  TESSERA_CHECK(shape.valid(), "in={}x{}x{} stride={} reverse={}", shape.in.c, shape.in.y, shape.in.x, shape.stride, shape.reverse);
}

}  // namespace

bool ReorgShape::valid() const {
  return stride >= 1 && in.elements() > 0 && in.c % (stride * stride) == 0 && (reverse || (in.y % stride == 0 && in.x % stride == 0));
}

Shape ReorgShape::out() const {
  if (reverse) return {in.c / (stride * stride), in.y * stride, in.x * stride};
  return {in.c * stride * stride, in.y / stride, in.x / stride};
}

Cell reorg_source(const ReorgShape& shape, Cell out) {
  const Index offset = offset_of(shape.out(), out);
  return cell_at(shape.in, shape.reverse ? deep_offset(shape, offset) : wide_offset(shape, cell_at(shape.in, offset)));
}

Cell reorg_target(const ReorgShape& shape, Cell in) {
  return cell_at(shape.out(), shape.reverse ? wide_offset(shape, in) : deep_offset(shape, offset_of(shape.in, in)));
}

Box reorg_source_box(const ReorgShape& shape, const Box& out_box) {
  check_shape(shape);
  return mapped_hull(out_box, [&](Cell cell) { return reorg_source(shape, cell); });
}

Box reorg_target_box(const ReorgShape& shape, const Box& in_box) {
  check_shape(shape);
  return mapped_hull(in_box, [&](Cell cell) { return reorg_target(shape, cell); });
}

void reorg_forward(const ReorgShape& shape, ConstFloatView input, FloatView output, const Box& box, base::ThreadPool& pool) {
  if (box.empty()) return;
  check_shape(shape);
  TESSERA_CHECK(output.box.contains(box), "output={} box={}", to_string(output.box), to_string(box));
  permute(
      input, output, box, [&](Cell cell) { return reorg_source(shape, cell); }, pool);
}

void reorg_backward(const ReorgShape& shape, ConstFloatView delta_out, FloatView delta_in, const Box& box, base::ThreadPool& pool) {
  if (box.empty()) return;
  check_shape(shape);
  TESSERA_CHECK(delta_in.box.contains(box), "delta_in={} box={}", to_string(delta_in.box), to_string(box));
  permute(
      delta_out, delta_in, box, [&](Cell cell) { return reorg_target(shape, cell); }, pool);
}

}  // namespace tessera::kernels
