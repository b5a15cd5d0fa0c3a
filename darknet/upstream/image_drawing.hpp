// Boxes on pictures, and windows where there is a display.
#pragma once

#include <opencv2/core.hpp>

#include <span>
#include <string>
#include <vector>

#include "observe/average_precision.hpp"

namespace tessera::darknet {

// Draws a frame and "name 87%" for every detection, boxes relative to the picture; each class has its colour.
void draw_objects(cv::Mat& picture, std::span<const observe::DetectedObject> objects, const std::vector<std::string>& names);

// Is there a display to open windows on? OpenCV's window library ends the process where there is none.
bool display_available();

// Shows the picture in a window for `milliseconds` (0: until a key is pressed). True when Esc or q was pressed.
bool show_picture(const std::string& title, const cv::Mat& picture, int milliseconds);

}  // namespace tessera::darknet
