// The contents of darknet-video.so.
#include <opencv2/highgui.hpp>

#include "darknet/upstream/video.hpp"

namespace {

int show(const std::string& window, const cv::Mat& picture, int wait_ms) {
  cv::imshow(window, picture);
  return cv::waitKey(wait_ms);
}

void make_window(const std::string& window, int width, int height, bool fullscreen) {
  cv::namedWindow(window, cv::WINDOW_NORMAL);
  if (fullscreen) {
    cv::setWindowProperty(window, cv::WND_PROP_FULLSCREEN, cv::WINDOW_FULLSCREEN);
  } else {
    cv::resizeWindow(window, width, height);
    if (window == "Demo") cv::moveWindow(window, 0, 0);
  }
}

}  // namespace

extern "C" const tessera::darknet::VideoLibrary* darknet_video_library_1() {
  static const tessera::darknet::VideoLibrary library{
      [] { return std::make_unique<cv::VideoCapture>(); },
      [] { return std::make_unique<cv::VideoWriter>(); },
      show,
      make_window,
  };
  return &library;
}
