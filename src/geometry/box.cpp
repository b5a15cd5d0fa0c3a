#include "geometry/box.hpp"

#include <fmt/format.h>

namespace tessera::geometry {

namespace {

constexpr std::array<Range Box::*, 4> kAxes = {&Box::n, &Box::c, &Box::y, &Box::x};

}  // namespace

std::vector<Box> subtract(const Box& a, const Box& b) {
  if (a.empty()) return {};
  const Box common = intersect(a, b);
  if (common.empty()) return {a};
  std::vector<Box> rest;
  Box core = a;  // shrinks axis by axis towards `common`; what is cut off goes to `rest`
  for (auto axis : kAxes) {
    if (core.*axis != common.*axis) {
      Box below = core, above = core;
      (below.*axis).end = (common.*axis).begin;
      (above.*axis).begin = (common.*axis).end;
      if (!below.empty()) rest.push_back(below);
      if (!above.empty()) rest.push_back(above);
      core.*axis = common.*axis;
    }
  }
  return rest;
}

std::vector<Box> subtract(const Box& box, const std::vector<Box>& holes) {
  std::vector<Box> rest;
  if (!box.empty()) rest.push_back(box);
  for (const Box& hole : holes) {
    std::vector<Box> next;
    for (const Box& piece : rest)
      for (const Box& part : subtract(piece, hole)) next.push_back(part);
    rest = std::move(next);
  }
  return rest;
}

std::string to_string(const Box& box) {
  return fmt::format("[{},{})x[{},{})x[{},{})x[{},{})", box.n.begin, box.n.end, box.c.begin, box.c.end, box.y.begin, box.y.end, box.x.begin,
                     box.x.end);
}

}  // namespace tessera::geometry
