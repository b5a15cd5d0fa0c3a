#include "kernels/interleave.hpp"

#include <algorithm>

#include "kernels/vectors.hpp"

namespace tessera::kernels {
namespace {

// Channels and cells that are exchanged together: whole cache lines of both layouts, which are done with before the next
// ones come. Planes of some sizes lie so that a cell of all channels falls into one set of the cache.
constexpr Index kTile = 16;

// channels x cells values: channels are `stride` apart in `plain`, cells `group` apart in `groups`.
struct Tile {
  float* plain;
  Index stride;
  float* groups;
  Index group;
};

struct Interleave {
  static constexpr bool kRepeatable = true;
  static void square(const Tile& t) {
    Square values;
    for (int c = 0; c < kVector; ++c) values[c] = load(t.plain + c * t.stride);
    transpose(values);
    for (int x = 0; x < kVector; ++x) store(values[x], t.groups + x * t.group);
  }
  static void cell(const float& plain, float& grouped) { grouped = plain; }
};

template <bool kAdd>
struct Deinterleave {
  static constexpr bool kRepeatable = !kAdd;
  static void square(const Tile& t) {
    Square values;
    for (int x = 0; x < kVector; ++x) values[x] = load(t.groups + x * t.group);
    transpose(values);
    for (int c = 0; c < kVector; ++c) {
      float* to = t.plain + c * t.stride;
      store(kAdd ? load(to) + values[c] : values[c], to);
    }
  }
  static void cell(float& plain, const float& grouped) { plain = kAdd ? plain + grouped : grouped; }
};

template <typename Exchange>
void exchange_tile(const Tile& t, Index channels, Index cells) {
  for (Index c = 0; c < channels; c += kVector)
    for (Index x = 0; x < cells; x += kVector) {
      const Tile part{t.plain + c * t.stride + x, t.stride, t.groups + x * t.group + c, t.group};
      const Index high = std::min<Index>(kVector, channels - c), wide = std::min<Index>(kVector, cells - x);
      if (high == kVector && wide == kVector) {
        Exchange::square(part);
      } else {
        for (Index i = 0; i < high; ++i)
          for (Index j = 0; j < wide; ++j) Exchange::cell(part.plain[i * t.stride + j], part.groups[j * t.group + i]);
      }
    }
}

template <typename Exchange>
void exchange(const PlainCells& plain, Index group, float* groups) {
  const auto [samples, channels, rows, width] = plain.sizes;
  // Rows that are adjacent are one long row.
  const bool adjacent = plain.strides[2] == width;
  const Index runs = adjacent ? 1 : rows, run = adjacent ? rows * width : width;
  for (Index n = 0; n < samples; ++n)
    for (Index first = 0; first < channels; first += group)
      for (Index y = 0; y < runs; ++y, groups += run * group)
        for (Index c = 0; c < group; c += kTile) {
          const Index high = std::min(kTile, group - c);
          float* row = plain.data + n * plain.strides[0] + (first + c) * plain.strides[1] + y * plain.strides[2];
          for (Index x = 0; x < run; x += kTile) {
            // A last tile that is not full starts earlier where doing cells twice does no harm.
            const Index at = Exchange::kRepeatable && run >= kTile ? std::min(x, run - kTile) : x;
            exchange_tile<Exchange>({row + at, plain.strides[1], groups + at * group + c, group}, high, std::min(kTile, run - at));
          }
        }
}

}  // namespace

void interleave(const PlainCells& plain, Index group, float* interleaved) { exchange<Interleave>(plain, group, interleaved); }

void deinterleave(const float* interleaved, Index group, const PlainCells& plain, bool add) {
  float* groups = const_cast<float*>(interleaved);  // shared with interleave(); only read here
  if (add)
    exchange<Deinterleave<true>>(plain, group, groups);
  else
    exchange<Deinterleave<false>>(plain, group, groups);
}

}  // namespace tessera::kernels
