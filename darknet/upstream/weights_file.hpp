// Darknet's weights files: written atomically, read with every size checked. The format is upstream's (its
// save_weights_upto() and load_weights_upto()): three int32 of version, `seen`, then each layer's floats.
// `seen` has 64 bits on disk on every machine.
#pragma once

#include <ctime>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <darknet.h>
#include "base/result.hpp"

namespace tessera::darknet {

struct WeightsInfo {
  std::uint64_t seen = 0;
  int layers = 0;          // layers with weights whose weights are in the file
  int layers_total = 0;    // layers with weights in the network
  int next_layer = 0;      // network index of the first layer without weights from the file; n when complete
  std::uint64_t hash = 0;  // of the floats, to tell which weights a training state belongs to
};

struct LoadRange {
  int start = 0;
  int cutoff = 1 << 30;
  bool complete = false;  // refuse a file that ends before the last layer
};

// Called after weights were loaded into a network. Set by whoever keeps copies of a network's weights elsewhere, since upstream's
// own functions, through which weights are loaded too, know of no such thing.
inline base::Status (*weights_loaded)(const network& net) = nullptr;

// Fills the network (and net->seen). Nothing is changed unless the whole file fits.
[[nodiscard]] base::Result<WeightsInfo> load_weights_file(network* net, const std::string& path, const LoadRange& range = {});

// The bytes of a weights file of layers [0, cutoff); `path` names it in the error. Refuses values that are not numbers, naming the layer.
struct WeightsImage {
  std::string bytes;
  WeightsInfo info;
};
[[nodiscard]] base::Result<WeightsImage> weights_image(const network* net, const std::string& path, int cutoff = 1 << 30);

// Saves layers [0, cutoff). Refuses to save values that are not numbers, naming the layer.
[[nodiscard]] base::Result<WeightsInfo> save_weights_file(const network* net, const std::string& path, int cutoff = 1 << 30);

// Momentum (and Adam's moments) of every layer. Nothing is loaded unless all of it fits; `name` is the source in the error.
std::string momentum_image(const network* net);
void append_momentum(const network* net, std::string& bytes);
[[nodiscard]] base::Status load_momentum(network* net, std::string_view bytes, const std::string& name);

// "layer 3 (convolutional)".
std::string layer_label(const network* net, int index);

// The first layer whose output or weights hold a value that is not finite, as "layer 3 (convolutional), in its
// output"; "" when there is none.
std::string first_bad_layer(const network* net);

// "convolutional", ... of a layer type.
const char* layer_type_name(LAYER_TYPE type);

}  // namespace tessera::darknet
