// Boxes: axis-aligned pieces of a tensor (n, c, y, x) = (samples, channels, rows, columns).
// Everything that moves between devices is described by these values.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace tessera::geometry {

using Index = std::int64_t;

// Half-open [begin, end). Empty when end <= begin.
struct Range {
  Index begin = 0;
  Index end = 0;

  Index size() const { return std::max<Index>(0, end - begin); }
  bool empty() const { return end <= begin; }
  bool contains(Range other) const { return other.empty() || (begin <= other.begin && other.end <= end); }
  friend bool operator==(const Range&, const Range&) = default;
};

inline Range intersect(Range a, Range b) { return {std::max(a.begin, b.begin), std::min(a.end, b.end)}; }

// The smallest range that holds both; an empty range adds nothing.
inline Range hull(Range a, Range b) {
  if (a.empty()) return b;
  if (b.empty()) return a;
  return {std::min(a.begin, b.begin), std::max(a.end, b.end)};
}

// Per-sample shape of a tensor.
struct Shape {
  Index c = 0;
  Index y = 0;
  Index x = 0;

  Index elements() const { return c * y * x; }
  friend bool operator==(const Shape&, const Shape&) = default;
};

// A box is empty when any of its ranges is; all empty boxes mean the same.
struct Box {
  Range n, c, y, x;

  static Box whole(Index batch, const Shape& shape) { return {{0, batch}, {0, shape.c}, {0, shape.y}, {0, shape.x}}; }

  bool empty() const { return n.empty() || c.empty() || y.empty() || x.empty(); }
  Index elements() const { return n.size() * c.size() * y.size() * x.size(); }
  bool contains(const Box& other) const {
    return other.empty() || (n.contains(other.n) && c.contains(other.c) && y.contains(other.y) && x.contains(other.x));
  }
  friend bool operator==(const Box&, const Box&) = default;
};

inline Box intersect(const Box& a, const Box& b) {
  Box box{intersect(a.n, b.n), intersect(a.c, b.c), intersect(a.y, b.y), intersect(a.x, b.x)};
  return box.empty() ? Box{} : box;
}

// The smallest box that holds both; an empty box adds nothing.
inline Box hull(const Box& a, const Box& b) {
  if (a.empty()) return b.empty() ? Box{} : b;
  if (b.empty()) return a;
  return {hull(a.n, b.n), hull(a.c, b.c), hull(a.y, b.y), hull(a.x, b.x)};
}

// a minus b as disjoint boxes that cover exactly the cells of a that are not in b. At most 8 boxes.
std::vector<Box> subtract(const Box& a, const Box& b);

// `box` minus every box of `holes`, as disjoint boxes.
std::vector<Box> subtract(const Box& box, const std::vector<Box>& holes);

// "[n0,n1)x[c0,c1)x[y0,y1)x[x0,x1)" for messages and printed plans.
std::string to_string(const Box& box);

}  // namespace tessera::geometry
