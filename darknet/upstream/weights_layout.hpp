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

// An array that training changes, and what it remembers of it. `second` holds twice as much with AMSGrad (adam.hpp).
struct TrainedArray {
  float *values = nullptr, *updates = nullptr;
  float **first = nullptr, **second = nullptr;  // where the layer keeps Adam's moments; those may be null
  std::size_t count = 0;
};

// Of a layer and of those it is made of.
std::vector<TrainedArray> trained_arrays(layer& l);

// What a training remembers besides weights: momentum, or Adam's moments.
std::vector<WeightBlock> momentum_blocks(const network& net, const layer& l);

}  // namespace tessera::darknet
