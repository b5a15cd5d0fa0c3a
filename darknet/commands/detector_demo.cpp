// darknet detector demo DATA CFG WEIGHTS [VIDEO]
#include <cstdio>

#include "base/clock.hpp"
#include "darknet/commands/commands.hpp"
#include "darknet/commands/test_inputs.hpp"
#include "darknet/training/evaluate.hpp"
#include "darknet/training/interrupt.hpp"
#include "darknet/upstream/image_drawing.hpp"
#include "darknet/upstream/video.hpp"
#include "data/image_file.hpp"

namespace tessera::darknet {
namespace {

constexpr double kFallbackFps = 25;  // where the source does not tell

base::Status open_source(const Arguments& arguments, cv::VideoCapture& source) {
  const std::string video = arguments.operand(3);
  const int camera = static_cast<int>(arguments.integer("c", 0));
  if (video.empty() ? source.open(camera) : source.open(video)) return {};
  if (video.empty())
    return base::error(base::ErrorCode::kNotFound,
                       "camera {} cannot be opened; name a video after the weights, or choose a camera with -c N", camera);
  return base::error(base::ErrorCode::kNotFound, "{}: cannot be opened as a video", video);
}

// A codec's name as videos have it (FourCC).
int four_characters(const char* name) { return name[0] | name[1] << 8 | name[2] << 16 | name[3] << 24; }

base::Status open_target(const std::string& path, const cv::Mat& frame, double fps, cv::VideoWriter& target) {
  const bool avi = path.ends_with(".avi");
  const int codec = avi ? four_characters("MJPG") : four_characters("mp4v");
  if (target.open(path, codec, fps > 0 ? fps : kFallbackFps, frame.size())) return {};
  return base::error(base::ErrorCode::kIo, "{}: cannot be written as a video; use .avi or .mp4 in a folder you may write to", path);
}

}  // namespace

base::Result<int> run_detector_demo(const Arguments& arguments) {
  TESSERA_ASSIGN(const DetectorUnderTest test, load_detector_for_test(arguments));
  const VideoLibrary* video = video_library();
  if (video == nullptr)
    return base::error(base::ErrorCode::kNotFound,
                       "no videos without darknet-video.so: copy it from build/ to where darknet is, or use `make install`");
  const auto source = video->make_capture();
  TESSERA_TRY(open_source(arguments, *source));
  DetectionSettings settings;
  settings.score_threshold = static_cast<float>(arguments.real("thresh", 0.25));
  settings.hierarchy_threshold = static_cast<float>(arguments.real("hier", settings.hierarchy_threshold));
  settings.nms_threshold = static_cast<float>(arguments.real("nms", settings.nms_threshold));
  const std::string out = arguments.text("out_filename"), prefix = arguments.text("prefix");
  const bool show = !arguments.has("dont_show") && display_available();

  const InterruptGuard guard;
  const auto target = video->make_writer();
  cv::Mat frame;
  int frames = 0;
  double seconds = 0;
  while (!InterruptGuard::interrupted() && source->read(frame) && !frame.empty()) {
    const base::TimePoint start = base::Clock::now();
    const std::vector<observe::DetectedObject> objects = detect_objects(test.loaded.net.get(), frame, settings);
    seconds += base::seconds_between(start, base::Clock::now());
    ++frames;
    fmt::print("frame {}: {} objects, {:.1f} frames/s\n", frames, objects.size(), seconds > 0 ? frames / seconds : 0);
    for (const observe::DetectedObject& object : objects)
      fmt::print("{}: {:.0f}%\n", test.names[static_cast<std::size_t>(object.class_id)], 100 * object.score);
    std::fflush(stdout);
    draw_objects(frame, objects, test.names);
    if (!out.empty()) {
      if (!target->isOpened()) TESSERA_TRY(open_target(out, frame, source->get(cv::CAP_PROP_FPS), *target));
      target->write(frame);
    }
    if (!prefix.empty()) TESSERA_TRY(data::write_image(fmt::format("{}_{:08}.jpg", prefix, frames - 1), frame));
    if (show && show_picture("demo", frame, 1)) break;
  }
  if (frames == 0)
    return base::error(base::ErrorCode::kIo, "{} has no pictures", arguments.operand(3).empty() ? "the camera" : arguments.operand(3));
  fmt::print("{} frames, {:.1f} frames/s\n", frames, frames / seconds);
  return InterruptGuard::interrupted() ? kExitInterrupted : 0;
}

}  // namespace tessera::darknet
