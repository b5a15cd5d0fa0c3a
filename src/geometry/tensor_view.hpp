// A dense piece of a tensor in memory.
#pragma once

#include "geometry/box.hpp"

namespace tessera::geometry {

// `data` points to element (box.n.begin, box.c.begin, box.y.begin, box.x.begin); elements lie row-major in
// (n, c, y, x) order with no gaps. Coordinates are global (those of the whole tensor). Does not own the memory.
template <typename T>
struct View {
  T* data = nullptr;
  Box box;

  Index offset(Index n, Index c, Index y, Index x) const {
    return (((n - box.n.begin) * box.c.size() + (c - box.c.begin)) * box.y.size() + (y - box.y.begin)) * box.x.size() + (x - box.x.begin);
  }
  T& at(Index n, Index c, Index y, Index x) const { return data[offset(n, c, y, x)]; }
  operator View<const T>() const { return {data, box}; }
};

using FloatView = View<float>;
using ConstFloatView = View<const float>;

}  // namespace tessera::geometry
