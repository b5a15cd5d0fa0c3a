#include "observe/gantt.hpp"

#include <algorithm>
#include <cmath>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

#include "base/text.hpp"

namespace tessera::observe {
namespace {

constexpr int kWidth = 1000, kLeft = 160, kRight = 30, kTop = 70, kBottom = 40, kRowHeight = 26, kMargin = 4;
constexpr std::size_t kMostRows = 100;
const cv::Scalar kBlack(0, 0, 0);
const cv::Scalar kColours[] = {{180, 119, 31}, {14, 127, 255}, {44, 160, 44}, {40, 39, 214}, {189, 103, 148}, {75, 86, 140}};

const cv::Scalar& colour_of(int kind) { return kColours[static_cast<std::size_t>(kind) % std::size(kColours)]; }

void write_text(cv::Mat& canvas, const std::string& text, cv::Point at, const cv::Scalar& colour) {
  cv::putText(canvas, text, at, cv::FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv::LINE_AA);
}

}  // namespace

double Gantt::end() const {
  double last = 0;
  for (const GanttRow& row : rows)
    for (const GanttSpan& span : row.spans) last = std::max(last, span.end);
  return last;
}

std::string gantt_text(const Gantt& gantt, int columns) {
  std::size_t width = 0;
  for (const GanttRow& row : gantt.rows) width = std::max(width, row.name.size());
  const double end = gantt.end();
  std::string text;
  for (const GanttRow& row : gantt.rows) {
    std::string line(static_cast<std::size_t>(columns), '.');
    for (int column = 0; column < columns; ++column)
      for (const GanttSpan& span : row.spans)
        if (const double at = (column + 0.5) / columns * end; span.begin <= at && at < span.end)
          line[static_cast<std::size_t>(column)] = gantt.kinds[static_cast<std::size_t>(span.kind)][0];
    text += fmt::format("{:<{}} |{}|\n", row.name, width, line);
  }
  text += fmt::format("{:<{}}  0{:>{}}\n", "", width, fmt::format("{:.3g} s", end), columns - 1);
  for (const std::string& kind : gantt.kinds) text += fmt::format("{}{} {}", &kind == &gantt.kinds[0] ? "" : ", ", kind[0], kind);
  return text + "\n";
}

base::Status write_gantt(const Gantt& gantt, const std::string& path) {
  const std::size_t rows = std::min(kMostRows, gantt.rows.size());
  cv::Mat canvas(kTop + kBottom + kRowHeight * static_cast<int>(rows), kWidth, CV_8UC3, cv::Scalar(255, 255, 255));
  const double end = std::max(1e-12, gantt.end());
  const auto column = [&](double seconds) { return kLeft + static_cast<int>(std::lround((kWidth - kLeft - kRight) * seconds / end)); };
  write_text(canvas, gantt.title, {8, 24}, kBlack);
  for (int kind = 0; kind < static_cast<int>(gantt.kinds.size()); ++kind)
    write_text(canvas, gantt.kinds[static_cast<std::size_t>(kind)], {kLeft + 130 * kind, 52}, colour_of(kind));
  for (std::size_t i = 0; i < rows; ++i) {
    const int top = kTop + kRowHeight * static_cast<int>(i);
    write_text(canvas, gantt.rows[i].name.substr(0, 16), {8, top + 17}, kBlack);
    for (const GanttSpan& span : gantt.rows[i].spans)
      cv::rectangle(canvas, {column(span.begin), top + kMargin}, {column(span.end), top + kRowHeight - kMargin}, colour_of(span.kind),
                    cv::FILLED);
  }
  write_text(canvas, "0", {kLeft, canvas.rows - 14}, kBlack);
  write_text(canvas, fmt::format("{:.3g} s", end), {kWidth - kRight - 60, canvas.rows - 14}, kBlack);
  std::vector<unsigned char> bytes;
  if (!cv::imencode(".png", canvas, bytes)) return base::error(base::ErrorCode::kIo, "{}: OpenCV cannot encode PNG", path);
  return base::write_file_atomically(path, std::string(bytes.begin(), bytes.end()));
}

}  // namespace tessera::observe
