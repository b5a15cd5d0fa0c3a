#include "data/decoder_output.hpp"

// jpeglib.h needs these two first.
#include <cstddef>
#include <cstdio>

#include <dlfcn.h>
#include <jpeglib.h>
#include <png.h>

#include <cstdlib>
#include <opencv2/core.hpp>
#include <opencv2/core/utils/logger.hpp>

namespace tessera::data {
namespace {

thread_local DecoderOutput* listener = nullptr;

// OpenCV's own lines, each time a file cannot be read.
void quieten_opencv() {
  static const bool once = [] {
    if (!std::getenv("OPENCV_LOG_LEVEL")) cv::utils::logging::setLogLevel(cv::utils::logging::LOG_LEVEL_SILENT);
    cv::redirectError([](int, const char*, const char*, const char*, int, void*) { return 0; });  // exceptions are thrown all the same
    return true;
  }();
  static_cast<void>(once);
}

void hear(const char* words) {
  if (listener) listener->add(words);
}

extern "C" void jpeg_says(j_common_ptr decoder) {
  char words[JMSG_LENGTH_MAX];
  decoder->err->format_message(decoder, words);
  hear(words);
}

extern "C" void png_warns(png_structp, png_const_charp) {}  // the pixels are good: nothing that is wrong with them is a mere warning

extern "C" void png_fails(png_structp decoder, png_const_charp words) {
  hear(words);
  using Jump = void (*)(png_structp, int);
  if (const auto jump = reinterpret_cast<Jump>(dlsym(RTLD_DEFAULT, "png_longjmp"))) jump(decoder, 1);
  std::abort();  // libpng itself would have no other way, either
}

}  // namespace

DecoderOutput::DecoderOutput() {
  quieten_opencv();
  listener = this;
}

DecoderOutput::~DecoderOutput() { listener = nullptr; }

void DecoderOutput::add(const std::string& words) {
  const bool harmless = words.find("extraneous bytes") != std::string::npos || words.find("Invalid SOS") != std::string::npos ||
                        words.find("Adobe") != std::string::npos || words.find("revision number") != std::string::npos;
  if (!harmless && damage_.empty()) damage_ = words;
}

}  // namespace tessera::data

// Both libraries are asked for a decoder by OpenCV, which is linked dynamically: of two functions of one name the program's own
// is called. The libraries' own are found behind it.
extern "C" {

jpeg_error_mgr* jpeg_std_error(jpeg_error_mgr* manager) {
  using Function = jpeg_error_mgr* (*)(jpeg_error_mgr*);
  static const auto real = reinterpret_cast<Function>(dlsym(RTLD_NEXT, "jpeg_std_error"));
  jpeg_error_mgr* const made = real(manager);
  made->output_message = tessera::data::jpeg_says;
  return made;
}

png_structp png_create_read_struct(png_const_charp version, png_voidp words, png_error_ptr fails, png_error_ptr warns) {
  using Function = png_structp (*)(png_const_charp, png_voidp, png_error_ptr, png_error_ptr);
  static const auto real = reinterpret_cast<Function>(dlsym(RTLD_NEXT, "png_create_read_struct"));
  return real(version, words, fails ? fails : tessera::data::png_fails, warns ? warns : tessera::data::png_warns);
}
}
