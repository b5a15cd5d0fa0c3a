// Videos, cameras and windows: OpenCV's videoio and highgui. They bring some 110 libraries with them (Qt, GStreamer, ffmpeg),
// so they live in darknet-video.so, which is loaded by the first who asks: processes that train or detect in pictures
// without showing them save 24 MB and 0.08 s.
#pragma once

#include <memory>
#include <opencv2/videoio.hpp>
#include <string>

namespace tessera::darknet {

// What the library offers; a change needs another number in the name of its entry, darknet_video_library_1. The methods of cv::VideoCapture and cv::VideoWriter are virtual: users need not be linked to them.
struct VideoLibrary {
  std::unique_ptr<cv::VideoCapture> (*make_capture)();
  std::unique_ptr<cv::VideoWriter> (*make_writer)();
  // Both throw cv::Exception, and end the process without a display. The key pressed within wait_ms (0: for ever), or -1.
  int (*show)(const std::string& window, const cv::Mat& picture, int wait_ms);
  void (*make_window)(const std::string& window, int width, int height, bool fullscreen);
};

// Null where it cannot be loaded; the first call says why on stderr. Any thread may call.
const VideoLibrary* video_library();

}  // namespace tessera::darknet
