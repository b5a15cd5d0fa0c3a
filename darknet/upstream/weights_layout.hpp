// Which arrays of a layer are stored, and in which order (upstream's src/parser.c).
#pragma once

#include <ctime>

#include <cstddef>
#include <vector>

#include <darknet.h>

namespace tessera::darknet {

struct WeightBlock {
  float* values = nullptr;
  std::size_t count = 0;
  // Not 0: the file has the matrix with rows and columns exchanged; this many rows there.
  std::size_t transposed_rows = 0;
};

enum class LayoutUse {
  kSave,
  kLoad,           // respects dontload, dontloadscales, numload, flipped
  kLoadTransposed  // the same from files older than version 0.1, whose connected layers lie the other way round
};

// Empty for a layer without stored weights.
std::vector<WeightBlock> weight_blocks(const layer& l, LayoutUse use);

// What a training remembers besides weights: momentum, or Adam's moments.
std::vector<WeightBlock> momentum_blocks(const layer& l);

}  // namespace tessera::darknet
