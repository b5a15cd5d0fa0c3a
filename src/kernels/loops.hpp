// How elementwise kernels walk over a box: rows in tasks, and runs of contiguous cells inside a task. Internal.
#pragma once

#include <algorithm>

#include "base/thread_pool.hpp"
#include "geometry/tensor_view.hpp"

namespace tessera::kernels {

using geometry::Box;
using geometry::Index;

// Cells per task: large enough that handing out tasks costs nothing, small enough to keep all threads busy.
inline constexpr Index kCellsPerTask = 16384;

// Calls body(n, c, y, rows) for pieces of planes that together are the box, in parallel. The pieces depend on the box
// only, not on the number of threads.
template <typename Body>
void for_rows(const Box& box, base::ThreadPool& pool, const Body& body) {
  if (box.empty()) return;
  const Index rows = box.y.size(), channels = box.c.size();
  const Index total = box.n.size() * channels * rows;
  const Index rows_per_task = std::max<Index>(1, kCellsPerTask / box.x.size());
  const Index tasks = (total + rows_per_task - 1) / rows_per_task;
  pool.parallel_for(tasks, [&](std::ptrdiff_t task, int) {
    Index row = task * rows_per_task;
    const Index end = std::min(total, row + rows_per_task);
    while (row < end) {
      const Index plane = row / rows, first = row % rows;
      const Index count = std::min(rows - first, end - row);
      body(box.n.begin + plane / channels, box.c.begin + plane % channels, box.y.begin + first, count);
      row += count;
    }
  });
}

// Whether consecutive rows of the box are adjacent in memory in all these views.
template <typename... Views>
bool rows_adjacent(const Box& box, const Views&... views) {
  return ((views.box.x == box.x) && ...);
}

// Calls body(n, c, y, length) for runs starting at (n, c, y, box.x.begin) that are contiguous in all the views.
template <typename Body, typename... Views>
void for_runs(const Box& box, base::ThreadPool& pool, const Body& body, const Views&... views) {
  const bool adjacent = rows_adjacent(box, views...);
  const Index width = box.x.size();
  for_rows(box, pool, [&](Index n, Index c, Index y, Index rows) {
    if (adjacent) {
      body(n, c, y, rows * width);
    } else {
      for (Index row = 0; row < rows; ++row) body(n, c, y + row, width);
    }
  });
}

}  // namespace tessera::kernels
