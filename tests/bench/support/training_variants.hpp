// The ways of training a network that are compared, each as a command with its cfg written.
#pragma once

#include <string>
#include <vector>

#include "tests/bench/support/network.hpp"
#include "tests/bench/support/report.hpp"

namespace tessera::bench {

struct TrainingPrograms {
  std::string ours, stock_ofast, stock_o2;
  std::string python;  // used if its PyTorch can be imported
};

struct TrainingSetup {
  std::string cfg_folder, folder, data;  // `folder`: where cfgs and logs are written and everything runs
  int threads = 1, iterations = 1;       // timed; of stock Darknet one is
};

// Which variant is what, by name in NetworkReport::variants; "": there is none.
struct Roles {
  std::vector<std::string> stock;  // first the build with upstream's own flags
  std::vector<std::string> torch;  // first the one with PyTorch's default layout
  std::string onednn, blas, floor;
  std::vector<std::string> exact_floors;  // without what rounds differently
  std::string fastest;                    // the one of onednn, blas that has `threads` and is expected to be the fastest
  std::string workers, recompute;         // on local workers, of the fastest backend
  std::string as_many_threads;            // one process with as many threads as the workers have in all
};

// Those that cannot be run here are added with the reason; the rest is said in notes.
[[nodiscard]] base::Result<Roles> add_training_variants(NetworkReport& report, const Network& network, const TrainingPrograms& programs,
                                                        const TrainingSetup& setup);

}  // namespace tessera::bench
