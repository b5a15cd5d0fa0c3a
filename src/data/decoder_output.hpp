// What OpenCV, libjpeg and libpng have to say about a picture while it is decoded: kept instead of printed, so that it can be
// told once, with the file's name.
#pragma once

#include <string>

namespace tessera::data {

// While one lives, the decoders' words in this thread are its own. One at a time per thread.
class DecoderOutput {
 public:
  DecoderOutput();
  ~DecoderOutput();
  DecoderOutput(const DecoderOutput&) = delete;
  DecoderOutput& operator=(const DecoderOutput&) = delete;

  void add(const std::string& words);

  // What says that pixels are wrong: a file that ends early, bits that cannot be decoded. "": none. (Colour profiles, or bytes
  // too many between segments, which some cameras leave, spoil nothing.)
  const std::string& damage() const { return damage_; }

 private:
  std::string damage_;
};

}  // namespace tessera::data
