// Layers of a Darknet network whose work is done elsewhere: they stay ordinary entries of net->layers, but their
// functions lead to an owner, and the full-size buffers behind them are gone.
#pragma once

#include <vector>

#include "darknet.h"
#include "plugins/distributed/network_graph.hpp"

namespace tessera::distributed {

// Called from within Darknet's forward_network(), backward_network() and update_network(). May throw; Darknet is built
// so that exceptions pass through it.
class WrappedRange {
 public:
  virtual ~WrappedRange() = default;
  virtual void forward(const network& net) = 0;
  virtual void backward(const network& net) = 0;
  virtual void update(const update_args& arguments) = 0;
  virtual base::Status parameters_changed() = 0;  // weights were loaded from a file
};

class WrappedLayers {
 public:
  // Redirects layers [range) of `net`, of which other ranges may be wrapped, too. `delivered[i]`: layer range.begin + i
  // keeps its output and, for training, its delta. For inference the momentum arrays go as well.
  WrappedLayers(network* net, LayerRange range, std::vector<bool> delivered, Purpose purpose, WrappedRange& owner);
  // Gives the layers their functions and buffers (zeroed) back.
  ~WrappedLayers();
  WrappedLayers(const WrappedLayers&) = delete;
  WrappedLayers& operator=(const WrappedLayers&) = delete;

  // Frees the buffers that Darknet made again when it resized the network.
  void release_buffers();

 private:
  struct Functions {
    decltype(layer::forward) forward;
    decltype(layer::backward) backward;
    decltype(layer::update) update;
  };

  network* const net_;
  const LayerRange range_;
  const std::vector<bool> delivered_;
  const Purpose purpose_;
  std::vector<Functions> functions_;
};

}  // namespace tessera::distributed
