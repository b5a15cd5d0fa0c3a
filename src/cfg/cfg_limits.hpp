// What a cfg asks of files, and which sizes of input it can have; looked at before upstream, which has no errors for either.
#pragma once

#include <vector>

#include "base/result.hpp"
#include "cfg/cfg_check.hpp"

namespace tessera::cfg {

// The files that map= and tree= of heads name: they are there, and a tree has as many lines as the head has classes, each under
// an earlier one. Errors as check_cfg() has them.
[[nodiscard]] base::Status check_named_files(const Cfg& cfg);

// As the testing commands need it: one picture at a time, whatever the training's batch is.
void set_batch_of_one(CfgFile& file);

struct InputSize {
  int width = 0, height = 0;
  bool operator==(const InputSize&) const = default;
};

// Sizes that random=1 may draw: the cfg's times 0.7 to 1.4 in steps of 32 (8 for inputs smaller than 128), of the same shape, and
// only those the cfg can have: where all maps that are joined still fit. The cfg's own is among them in any case.
std::vector<InputSize> multi_scale_sizes(const Cfg& cfg);

}  // namespace tessera::cfg
