#include "observe/class_chart.hpp"

#include <algorithm>
#include <numeric>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

#include "base/text.hpp"

namespace tessera::observe {
namespace {

constexpr int kLeft = 80, kTop = 60, kBar = 26, kStep = 34, kLength = 760, kLegend = 200, kMostNamed = 20;

std::size_t total(const std::vector<std::size_t>& counts) { return std::accumulate(counts.begin(), counts.end(), std::size_t{0}); }

cv::Scalar colour(std::size_t index, std::size_t count) {
  const cv::Mat hsv(1, 1, CV_8UC3, cv::Scalar(180.0 * static_cast<double>(index) / static_cast<double>(count), index % 2 ? 120 : 200, 220));
  cv::Mat bgr;
  cv::cvtColor(hsv, bgr, cv::COLOR_HSV2BGR);
  return cv::Scalar(bgr.at<cv::Vec3b>(0, 0));
}

void write_text(cv::Mat& canvas, const std::string& text, int x, int y, double scale = 0.45) {
  cv::putText(canvas, text, {x, y}, cv::FONT_HERSHEY_SIMPLEX, scale, cv::Scalar(0, 0, 0), 1, cv::LINE_AA);
}

}  // namespace

std::string class_table(const ClassCounts& counts, const std::vector<std::string>& labels) {
  std::string text = fmt::format("{:>6} {:>8}", "edge", "pictures");
  std::vector<std::size_t> widths;
  for (const std::string& label : labels) {
    widths.push_back(std::max<std::size_t>(6, std::min<std::size_t>(label.size(), 12)));
    text += fmt::format(" {:>{}}", label.substr(0, 12), widths.back());
  }
  for (std::size_t edge = 0; edge < counts.size(); ++edge) {
    text += fmt::format("\n{:>6} {:>8}", edge, total(counts[edge]));
    for (std::size_t c = 0; c < labels.size(); ++c) text += fmt::format(" {:>{}}", counts[edge][c], widths[c]);
  }
  return text + "\n";
}

base::Status write_class_chart(const ClassCounts& counts, const std::vector<std::string>& labels, const std::string& title,
                               const std::string& path) {
  std::size_t most = 1;
  for (const auto& edge : counts) most = std::max(most, total(edge));
  const int rows = std::max(static_cast<int>(counts.size()) * kStep, std::min(static_cast<int>(labels.size()), kMostNamed) * 20);
  cv::Mat canvas(kTop + rows + 30, kLeft + kLength + kLegend, CV_8UC3, cv::Scalar(255, 255, 255));
  write_text(canvas, title, kLeft, 30, 0.6);
  for (std::size_t edge = 0; edge < counts.size(); ++edge) {
    const int y = kTop + static_cast<int>(edge) * kStep;
    write_text(canvas, fmt::format("edge {}", edge), 10, y + 18);
    std::size_t before = 0;
    const auto at = [&](std::size_t count) { return kLeft + static_cast<int>(count * (kLength - 70) / most); };
    for (std::size_t c = 0; c < labels.size(); before += counts[edge][c++])
      if (counts[edge][c] > 0)
        cv::rectangle(canvas, {at(before), y}, {at(before + counts[edge][c]) - 1, y + kBar}, colour(c, labels.size()), cv::FILLED);
    write_text(canvas, std::to_string(before), at(before) + 6, y + 18);
  }
  for (std::size_t c = 0; c < std::min<std::size_t>(labels.size(), kMostNamed); ++c) {
    const int y = kTop + static_cast<int>(c) * 20;
    cv::rectangle(canvas, {kLeft + kLength + 10, y}, {kLeft + kLength + 24, y + 14}, colour(c, labels.size()), cv::FILLED);
    write_text(canvas, labels[c].substr(0, 18), kLeft + kLength + 30, y + 12);
  }
  std::vector<unsigned char> bytes;
  if (!cv::imencode(".png", canvas, bytes)) return base::error(base::ErrorCode::kIo, "{}: OpenCV cannot encode PNG", path);
  return base::write_file_atomically(path, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

}  // namespace tessera::observe
