// Darknet's image and video functions (declared in upstream's src/image.h) on OpenCV 4. Upstream's own version uses
// OpenCV 1's C types, which OpenCV 4 no longer has; this file is compiled in its place.
//
// Darknet's `image`: floats in [0,1], planar, channels in RGB order. OpenCV's Mat: bytes, interleaved, BGR.
#include <darknet.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <opencv2/core.hpp>
#include <opencv2/core/utils/logger.hpp>
#include <opencv2/imgcodecs.hpp>
#include <string>
#include <string_view>

#include "darknet/upstream/video.hpp"

namespace {

using tessera::darknet::video_library;

constexpr int kPlaceholderSide = 10;  // what stands for an unreadable image; callers expect some image

// OpenCV reports every file it cannot read in lines of its own; the functions below say it in one.
void quieten_opencv() {
  static const bool once = [] {
    if (!std::getenv("OPENCV_LOG_LEVEL")) cv::utils::logging::setLogLevel(cv::utils::logging::LOG_LEVEL_SILENT);
    return true;
  }();
  static_cast<void>(once);
}

// Divides in double and rounds once, as upstream does, so that every pixel has the same value.
template <typename Sample>
void copy_plane(const cv::Mat& pixels, int channel, double whitest, float* plane) {
  for (int y = 0; y < pixels.rows; ++y) {
    const Sample* row = pixels.ptr<Sample>(y) + channel;
    for (int x = 0; x < pixels.cols; ++x) *plane++ = static_cast<float>(row[x * pixels.channels()] / whitest);
  }
}

// `pixels` has 8 or 16 bits per sample. Keeps the number of channels.
image to_darknet(const cv::Mat& pixels) {
  const int channels = pixels.channels();
  image result = make_image(pixels.cols, pixels.rows, channels);
  const std::size_t plane_elements = static_cast<std::size_t>(pixels.rows) * pixels.cols;
  for (int channel = 0; channel < channels; ++channel) {
    const int source = channels >= 3 && channel < 3 ? 2 - channel : channel;  // BGR(A) to RGB(A)
    float* plane = result.data + channel * plane_elements;
    if (pixels.depth() == CV_16U)
      copy_plane<std::uint16_t>(pixels, source, 65535.0, plane);
    else
      copy_plane<std::uint8_t>(pixels, source, 255.0, plane);
  }
  return result;
}

// Clamps to [0,1] and truncates to bytes, as upstream does.
cv::Mat to_opencv(const image& picture) {
  const std::size_t plane_elements = static_cast<std::size_t>(picture.w) * picture.h;
  cv::Mat pixels(picture.h, picture.w, CV_MAKETYPE(CV_8U, picture.c));
  for (int y = 0; y < picture.h; ++y) {
    std::uint8_t* row = pixels.ptr<std::uint8_t>(y);
    for (int x = 0; x < picture.w; ++x)
      for (int c = 0; c < picture.c; ++c) {
        const int plane = picture.c == 3 ? 2 - c : c;
        const float value = picture.data[plane * plane_elements + static_cast<std::size_t>(y) * picture.w + x];
        row[x * picture.c + c] = static_cast<std::uint8_t>(255 * std::min(std::max(value, 0.0f), 1.0f));
      }
  }
  return pixels;
}

// Upstream's loaders run in several threads: one write() in append mode keeps lines whole.
void append_to_bad_list(const std::string& path) {
  const int file = open("bad.list", O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
  if (file < 0) return;  // the message on stderr has been given; a read-only directory is no reason to stop
  const std::string line = path + "\n";
  if (write(file, line.data(), line.size()) < 0) perror("bad.list");
  close(file);
}

// What shows windows; null where there is none. A GUI library without a display ends the whole process, so it is asked for
// only where there is one.
const tessera::darknet::VideoLibrary* windows() {
  static std::atomic<bool> told{false};
  for (const char* variable : {"DISPLAY", "WAYLAND_DISPLAY"})
    if (const char* value = std::getenv(variable); value && *value) return video_library();
  if (!told.exchange(true)) std::fprintf(stderr, "No display here: windows are not shown (-dont_show says so in advance)\n");
  return nullptr;
}

}  // namespace

extern "C" {

// channels: 0 (as in the file), 1 (grey) or 3 (colour). Never fails: an unreadable file is named on stderr and in
// ./bad.list, and a small black image of the wanted channels is returned.
image load_image_cv(char* filename, int channels) {
  quieten_opencv();
  std::string reason = "not found or not an image";
  try {
    const int mode = channels == 1 ? cv::IMREAD_GRAYSCALE : channels == 3 ? cv::IMREAD_COLOR : cv::IMREAD_UNCHANGED;
    cv::Mat pixels = cv::imread(filename, mode);
    if (!pixels.empty() && (pixels.depth() == CV_8U || pixels.depth() == CV_16U)) return to_darknet(pixels);
    if (!pixels.empty()) reason = "neither 8 nor 16 bits per channel";
  } catch (const cv::Exception& error) {
    reason = error.err;
  }
  std::fprintf(stderr, "Cannot load image \"%s\": %s (added to bad.list)\n", filename, reason.c_str());
  append_to_bad_list(filename);
  return make_image(kPlaceholderSide, kPlaceholderSide, channels == 1 ? 1 : 3);
}

// A video (file, URL, numbered images, pipeline) when `filename` is given, else camera number `camera`. 0 = leave
// width, height, rate as they are. Returns null when it cannot be opened. The stream stays open until the process ends,
// as upstream's callers expect.
void* open_video_stream(const char* filename, int camera, int width, int height, int frames_per_second) {
  quieten_opencv();
  const bool plain_file = filename && std::string_view(filename).find_first_of(":%!") == std::string_view::npos;
  if (plain_file && access(filename, R_OK) != 0) {  // else OpenCV tries every kind of source there is, for seconds
    std::fprintf(stderr, "Cannot open video \"%s\": %s\n", filename, std::strerror(errno));
    return nullptr;
  }
  const auto* video = video_library();
  if (video == nullptr) return nullptr;
  auto capture = video->make_capture();
  if (!(filename ? capture->open(filename) : capture->open(camera))) return nullptr;
  if (width) capture->set(cv::CAP_PROP_FRAME_WIDTH, width);
  if (height) capture->set(cv::CAP_PROP_FRAME_HEIGHT, height);
  if (frames_per_second) capture->set(cv::CAP_PROP_FPS, frames_per_second);
  return capture.release();
}

// The next frame; an image without data at the end of the stream.
image get_image_from_stream(void* stream) {
  cv::Mat frame;
  try {
    static_cast<cv::VideoCapture*>(stream)->read(frame);
  } catch (const cv::Exception& error) {
    std::fprintf(stderr, "Cannot read the next frame: %s\n", error.err.c_str());
  }
  return frame.empty() ? image{0, 0, 0, nullptr} : to_darknet(frame);
}

// Shows `picture` and waits `wait_ms` (0: until a key). Returns the key, -1 for none.
int show_image_cv(image picture, const char* window, int wait_ms) {
  const auto* video = windows();
  if (video == nullptr) return -1;
  try {
    const int key = video->show(window, to_opencv(picture), wait_ms);
    return key == -1 ? -1 : key % 256;
  } catch (const cv::Exception& error) {
    std::fprintf(stderr, "Cannot show window \"%s\": %s\n", window, error.err.c_str());
    return -1;
  }
}

void make_window(char* window, int width, int height, int fullscreen) {
  const auto* video = windows();
  if (video == nullptr) return;
  try {
    video->make_window(window, width, height, fullscreen != 0);
  } catch (const cv::Exception& error) {
    std::fprintf(stderr, "Cannot open window \"%s\": %s\n", window, error.err.c_str());
  }
}

}  // extern "C"
