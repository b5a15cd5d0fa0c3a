#include "observe/chart.hpp"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

namespace tessera::observe {
namespace {

constexpr int kWidth = 1000, kHeight = 700, kLeft = 70, kRight = 70, kTop = 50, kBottom = 60;
const cv::Scalar kBlack(0, 0, 0), kGrid(225, 225, 225), kLossColour(200, 80, 20), kPrecisionColour(40, 40, 210);
constexpr auto kFont = cv::FONT_HERSHEY_SIMPLEX;

void write_text(cv::Mat& canvas, const std::string& text, cv::Point at, const cv::Scalar& colour, double scale = 0.5) {
  cv::putText(canvas, text, at, kFont, scale, colour, 1, cv::LINE_AA);
}

// Maps iterations and values onto the canvas.
struct Axes {
  double iterations, ceiling;

  cv::Point at(double iteration, double value) const {
    const double x = kLeft + (kWidth - kLeft - kRight) * std::clamp(iteration / iterations, 0.0, 1.0);
    const double y = kHeight - kBottom - (kHeight - kTop - kBottom) * std::clamp(value / ceiling, 0.0, 1.0);
    return {static_cast<int>(std::lround(x)), static_cast<int>(std::lround(y))};
  }
};

void draw_grid(cv::Mat& canvas, const Axes& axes, bool precision) {
  constexpr int kLines = 10;
  for (int i = 0; i <= kLines; ++i) {
    const double part = static_cast<double>(i) / kLines;
    const cv::Point left = axes.at(0, part * axes.ceiling), right = axes.at(axes.iterations, part * axes.ceiling);
    const cv::Point bottom = axes.at(part * axes.iterations, 0), top = axes.at(part * axes.iterations, axes.ceiling);
    cv::line(canvas, left, right, kGrid);
    cv::line(canvas, bottom, top, kGrid);
    write_text(canvas, fmt::format("{:.3g}", part * axes.ceiling), {8, left.y + 5}, kLossColour);
    write_text(canvas, fmt::format("{:.0f}", part * axes.iterations), {bottom.x - 15, bottom.y + 20}, kBlack, 0.4);
    if (precision) write_text(canvas, fmt::format("{:.0f}%", 100 * part), {right.x + 10, right.y + 5}, kPrecisionColour);
  }
  cv::rectangle(canvas, axes.at(0, axes.ceiling), axes.at(axes.iterations, 0), kBlack);
}

void draw_curve(cv::Mat& canvas, const Axes& axes, const std::vector<ChartPoint>& points, const cv::Scalar& colour, bool marked) {
  std::vector<cv::Point> curve;
  for (const ChartPoint& point : points) curve.push_back(axes.at(static_cast<double>(point.iteration), point.value));
  cv::polylines(canvas, curve, false, colour, marked ? 2 : 1, cv::LINE_AA);
  if (marked)
    for (const cv::Point& at : curve) cv::circle(canvas, at, 4, colour, cv::FILLED, cv::LINE_AA);
}

base::Status put_in_place(const std::string& path, const std::vector<unsigned char>& bytes) {
  const std::string temporary = path + ".tmp";
  std::FILE* file = std::fopen(temporary.c_str(), "wb");
  bool good = file && std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size();
  good = file && std::fclose(file) == 0 && good && std::rename(temporary.c_str(), path.c_str()) == 0;
  if (good) return {};
  const int reason = errno;
  std::remove(temporary.c_str());
  return base::error(base::ErrorCode::kIo, "{}: cannot write the chart: {}", path, std::strerror(reason));
}

}  // namespace

void thin(std::vector<ChartPoint>& points, std::size_t most) {
  if (points.size() <= most) return;
  std::size_t kept = 0;
  for (std::size_t i = points.size() % 2 == 0 ? 1 : 0; i < points.size(); i += 2) points[kept++] = points[i];  // the newest stays
  points.resize(kept);
}

double loss_ceiling(const std::vector<ChartPoint>& loss) {
  std::vector<double> values;
  for (const ChartPoint& point : loss)
    if (std::isfinite(point.value)) values.push_back(point.value);
  if (values.empty()) return 1;
  std::sort(values.begin(), values.end());
  const double high = std::max(1e-9, values[(values.size() - 1) * 95 / 100]);
  const double power = std::pow(10.0, std::floor(std::log10(high)));
  for (const double step : {1.0, 2.0, 5.0})
    if (high <= step * power) return step * power;
  return 10 * power;
}

base::Status write_chart(const ChartData& data, const std::string& path) {
  cv::Mat canvas(kHeight, kWidth, CV_8UC3, cv::Scalar(255, 255, 255));
  const Axes loss_axes{static_cast<double>(std::max<std::uint64_t>(1, data.iterations)), loss_ceiling(data.loss)};
  const Axes precision_axes{loss_axes.iterations, 1};
  draw_grid(canvas, loss_axes, !data.precision.empty());
  draw_curve(canvas, loss_axes, data.loss, kLossColour, false);
  draw_curve(canvas, precision_axes, data.precision, kPrecisionColour, true);

  write_text(canvas, data.title, {kLeft, 30}, kBlack, 0.7);
  write_text(canvas, "iteration", {kWidth / 2 - 30, kHeight - 15}, kBlack);
  if (!data.loss.empty())
    write_text(canvas, fmt::format("average loss {:.4g}", data.loss.back().value), {kWidth - 420, 30}, kLossColour, 0.6);
  if (!data.precision.empty())
    write_text(canvas, fmt::format("{} {:.1f}%", data.precision_name, 100 * data.precision.back().value), {kWidth - 190, 30},
               kPrecisionColour, 0.6);

  std::vector<unsigned char> bytes;
  if (!cv::imencode(".png", canvas, bytes)) return base::error(base::ErrorCode::kIo, "{}: OpenCV cannot encode PNG", path);
  return put_in_place(path, bytes);
}

}  // namespace tessera::observe
