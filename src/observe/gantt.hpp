// Who is busy with what, and when: as text and as a picture.
#pragma once

#include <string>
#include <vector>

#include "base/result.hpp"

namespace tessera::observe {

struct GanttSpan {
  double begin = 0, end = 0;  // seconds
  int kind = 0;               // index into Gantt::kinds
};

struct GanttRow {
  std::string name;
  std::vector<GanttSpan> spans;
};

struct Gantt {
  std::string title;
  std::vector<std::string> kinds;  // the first letter of each stands for it in text
  std::vector<GanttRow> rows;

  double end() const;  // of the last span
};

// A line for each row, `columns` characters of time, and what the letters mean. A cell shows what is under way in its middle.
std::string gantt_text(const Gantt& gantt, int columns = 72);

// Draws a PNG and puts it in place of `path` in one step; of more than 100 rows the first 100.
[[nodiscard]] base::Status write_gantt(const Gantt& gantt, const std::string& path);

}  // namespace tessera::observe
