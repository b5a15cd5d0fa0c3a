// What training changes outside the wrapped range: the coordinator's own layers. Kept since parameters were collected, so that
// the iterations after it can be repeated.
#pragma once

#include <vector>

#include "darknet.h"
#include "plugins/distributed/network_graph.hpp"

namespace tessera::distributed {

class UnwrappedState {
 public:
  UnwrappedState(const network& net, LayerRange wrapped);
  void restore(network* net) const;

 private:
  struct Kept {
    float* where;
    std::vector<float> values;
  };
  std::size_t seen_;
  std::vector<Kept> kept_;
};

}  // namespace tessera::distributed
