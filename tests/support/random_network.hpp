// Random cfgs of the networks that can be wrapped, cut down in width, depth and size so that a pass takes milliseconds.
#pragma once

#include <string>
#include <vector>

#include "tests/support/random.hpp"

namespace tessera::testing {

// Upstream's cfgs of the same names are the patterns.
enum class Family { kYolov2Tiny, kYolov2, kYolov3Tiny, kYolov3, kDarknet19, kDarknet53, kResnet18, kResnet50 };

const std::vector<Family>& all_families();
const char* to_string(Family family);

struct NetworkOptions {
  int batch = 2;  // images of one forward pass
  int subdivisions = 1;
  bool plain = false;  // batch norm and leaky everywhere, as upstream has it; else both vary
  bool may_stop_backward = false;
  std::string training = "learning_rate=0.01\nmomentum=0.9\ndecay=0.0005\n";  // lines of [net]
};

// The text of a cfg. Odd image sizes, but for what reorg and upsample ask of them.
std::string random_network(Rng& rng, Family family, const NetworkOptions& options);

}  // namespace tessera::testing
