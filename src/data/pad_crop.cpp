#include "data/pad_crop.hpp"

#include <algorithm>
#include <sstream>
#include <utility>
#include <vector>

#include "base/text.hpp"
#include "data/sample_rng.hpp"

namespace tessera::data {
namespace {

constexpr long kMost = 1024;
constexpr int kFeistelRounds = 4;

}  // namespace

base::Result<PadCrop> parse_pad_crop(const std::string& text) {
  PadCrop settings;
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    const std::size_t equals = word.find('=');
    const std::string key = word.substr(0, equals);
    const auto number = equals == std::string::npos ? std::nullopt : base::to_integer(word.substr(equals + 1));
    const bool sized = (key == "pad" || key == "cutout") && number && *number >= 0 && *number <= kMost;
    if (!sized && word != "flip")
      return base::error(base::ErrorCode::kInvalidArgument, "augment={}: '{}' is no augmentation; write pad=PIXELS, flip, cutout=PIXELS",
                         text, word);
    if (word == "flip") settings.flip = true;
    if (key == "pad") settings.pad = static_cast<int>(*number);
    if (key == "cutout") settings.cutout = static_cast<int>(*number);
  }
  return settings;
}

void pad_crop(const PadCrop& settings, std::uint64_t seed, std::uint64_t sample, std::uint64_t round, int channels, int height, int width,
              float* planes) {
  SampleRng rng(seed, sample, round);
  const auto below = [&](int count) { return static_cast<int>(rng.below(static_cast<std::uint64_t>(count))); };
  const int dx = below(2 * settings.pad + 1) - settings.pad, dy = below(2 * settings.pad + 1) - settings.pad;
  const bool flip = (rng.next() & 1) != 0 && settings.flip;
  const int middle_x = below(width), middle_y = below(height);
  const auto cut = [&](int x, int y) {
    const int left = middle_x - settings.cutout / 2, top = middle_y - settings.cutout / 2;
    return x >= left && x < left + settings.cutout && y >= top && y < top + settings.cutout;
  };
  const std::size_t plane = static_cast<std::size_t>(width) * static_cast<std::size_t>(height);
  std::vector<float> before(plane);
  for (int c = 0; c < channels; ++c) {
    float* out = planes + static_cast<std::size_t>(c) * plane;
    std::copy_n(out, plane, before.begin());
    for (int y = 0; y < height; ++y)
      for (int x = 0; x < width; ++x) {
        const int from_x = (flip ? width - 1 - x : x) + dx, from_y = y + dy;
        const bool inside = from_x >= 0 && from_x < width && from_y >= 0 && from_y < height && !cut(x, y);
        out[y * width + x] =
            inside ? before[static_cast<std::size_t>(from_y) * static_cast<std::size_t>(width) + static_cast<std::size_t>(from_x)] : 0.0f;
      }
  }
}

// A Feistel network is a permutation of the numbers of an even count of bits; one that falls outside goes through again.
std::uint64_t shuffled(std::uint64_t seed, std::uint64_t round, std::uint64_t position, std::uint64_t count) {
  int half = 1;
  while ((std::uint64_t{1} << 2 * half) < count) ++half;
  const std::uint64_t mask = (std::uint64_t{1} << half) - 1;
  do {
    std::uint64_t left = position >> half, right = position & mask;
    for (int i = 0; i < kFeistelRounds; ++i) {
      const std::uint64_t mixed = SampleRng(seed, round * kFeistelRounds + static_cast<std::uint64_t>(i), right).next() >> 17;
      left = std::exchange(right, left ^ (mixed & mask));
    }
    position = left << half | right;
  } while (position >= count);
  return position;
}

}  // namespace tessera::data
