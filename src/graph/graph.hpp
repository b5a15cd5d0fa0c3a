// The wrapped range of a network as plain values: no Darknet structs, no weights.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "geometry/box.hpp"
#include "geometry/window.hpp"

namespace tessera::graph {

using geometry::Index;
using geometry::Shape;

enum class LayerKind {
  kInput,  // a tensor made outside the range: the network's input or an earlier layer's output
  kConvolutional,
  kMaxpool,
  kRoute,
  kShortcut,
  kUpsample,
  kReorg,
};

const char* to_string(LayerKind kind);

// One node of the graph; its output is the tensor of the same number.
struct Layer {
  LayerKind kind = LayerKind::kInput;
  int source = -1;          // Darknet's layer number; -1 for the network's input
  std::vector<int> inputs;  // nodes, all smaller than this one; shortcut: {previous, from}
  Shape out;                // per sample

  // Windows (convolutional, maxpool) and factors (upsample, reorg). `pad` is Darknet's: on each side for convolutional,
  // in total for maxpool.
  int kernel = 1;
  int stride = 1;
  int pad = 0;
  int stride_x = 0;  // of windows along columns; 0: as along rows
  int dilation = 1;  // convolutional: cells from one weight to the next
  int groups = 1;    // convolutional: of its channels, each with filters of its own; route: of each input's channels
  int group = 0;     // route: the one that is taken

  bool batch_normalize = false;       // convolutional
  std::string activation = "linear";  // convolutional, shortcut; Darknet's names
  float alpha = 1, beta = 1;          // shortcut
  float scale = 1;                    // upsample
  bool reverse = false;               // reorg from channels to space
  float learning_rate_scale = 1;      // convolutional; Darknet's `learning_rate` of a layer

  // Used by layers after the range, which read its output and add to its delta.
  bool delivered = false;
  bool epsilon_in_root = false;  // batch normalisation divides by sqrt(variance + 1e-5), as AlexeyAB's Darknet
  bool adds_gradient = false;    // to its input's delta, where upstream's 1x1 convolutions and reorg replace it
  // Back-propagation reaches this node: for kInput, somebody wants its delta; otherwise no `stopbackward` lies at or
  // after it.
  bool backward = true;

  geometry::Window rows() const { return {kernel, stride, kind == LayerKind::kMaxpool ? pad / 2 : pad, dilation}; }
  geometry::Window columns() const { return {kernel, stride_x ? stride_x : stride, rows().pad, dilation}; }
  bool trainable() const { return kind == LayerKind::kConvolutional; }
  // Elements of the weights, [out.c][in.c][kernel][kernel].
  Index weights(Index in_channels) const { return out.c * in_channels * kernel * kernel; }
};

// Its derivative follows from its input only, which batch-normalised layers keep: no others can have it.
bool derivative_needs_input(const std::string& activation);

// Nodes in topological order: kInput nodes first, then layers in Darknet's order.
struct Graph {
  std::vector<Layer> layers;

  int size() const { return static_cast<int>(layers.size()); }
  int first_layer() const;  // the first node that is not kInput
  const Layer& operator[](int node) const { return layers[static_cast<std::size_t>(node)]; }
  // That each filter of a convolution reads.
  Index input_channels(int node) const { return (*this)[(*this)[node].inputs[0]].out.c / (*this)[node].groups; }
  Index weights(int node) const { return (*this)[node].weights(input_channels(node)); }
};

// One use of a tensor: `layer` reads it as its inputs[input].
struct Use {
  int layer = 0;
  int input = 0;
};

// All uses of every tensor inside the range, by ascending layer.
std::vector<std::vector<Use>> uses(const Graph& graph);

// The uses that count in back-propagation, and whether the delta given from outside does. Darknet's backward pass goes
// from the last layer to the first and adds every consumer's part to a tensor's delta, except that a 1×1 convolution
// (gemm with beta 0) and a reorg overwrite it, so parts added before are lost (convolutional_layer.c, reorg_layer.c).
struct DeltaSources {
  std::vector<Use> uses;             // by descending layer: the order in which parts are added
  bool external = false;             // delivered, and not overwritten by a consumer inside the range
  bool overwrites_external = false;  // for kInput: the part from this range replaces what is there
};
DeltaSources delta_sources(const Graph& graph, const std::vector<Use>& uses_of_node, int node);

// Shapes, input counts and parameters fit together; the message names the layer.
base::Status validate(const Graph& graph);

nlohmann::json to_json(const Graph& graph);
// Parses and validates; `json` may come from another machine.
base::Result<Graph> graph_from_json(const nlohmann::json& json);

}  // namespace tessera::graph
