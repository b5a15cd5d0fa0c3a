// A whole cfg, checked: sections in order, layers that fit each other, heads that fit their anchors and
// classes. What upstream would find by an assert, a crash, or never, is found here with file and line; all mistakes at once, a line
// of the message each.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "cfg/cfg_file.hpp"
#include "cfg/distributed_section.hpp"

namespace tessera::cfg {

// One layer as far as the check needs it. Channels are 0 where the output is no map (a flat vector).
struct LayerShape {
  std::string type;  // canonical section name
  int line = 0;
  long c = 0, h = 0, w = 0;
  long outputs = 0;
  int section = 0;            // index in the file
  std::int64_t unrolled = 0;  // values of its input, unrolled for a matrix product
};

struct Cfg {
  CfgFile file;
  DistributedSection distributed;
  std::vector<LayerShape> layers;
  int classes = 0;  // of the detection heads; 0 without one
  int classes_line = 0;
  std::int64_t floats = 0;  // that upstream's network of it keeps at least: outputs, deltas, weights and their updates
  bool alexey = false;      // has something of AlexeyAB's Darknet (cfg_keys.hpp), so it means what it means there
};

[[nodiscard]] base::Result<Cfg> check_cfg(CfgFile file);

}  // namespace tessera::cfg
