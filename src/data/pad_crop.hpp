// The augmentation of small pictures (He et al. 2016; DeVries, Taylor 2017): pad and crop, flip, cut a square out.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.hpp"

namespace tessera::data {

struct PadCrop {
  int pad = 0;        // pixels of black on every side before a crop of the input's size
  bool flip = false;  // half of the pictures, left to right
  int cutout = 0;     // side of a black square around a random pixel; 0: none
};

// "pad=4 flip cutout=16", any of them.
[[nodiscard]] base::Result<PadCrop> parse_pad_crop(const std::string& text);

// In place, on planes of floats, what picture `sample` of the set looks like in round (epoch) `round`: whoever knows the
// three numbers makes the same picture.
void pad_crop(const PadCrop& settings, std::uint64_t seed, std::uint64_t sample, std::uint64_t round, int channels, int height, int width,
              float* planes);

// The `position`th of `count` samples in this round: every sample once a round, in an order of its own.
std::uint64_t shuffled(std::uint64_t seed, std::uint64_t round, std::uint64_t position, std::uint64_t count);

}  // namespace tessera::data
