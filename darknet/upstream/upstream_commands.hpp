// Upstream's other commands, which run in upstream's own code.
#pragma once

#include <string>
#include <vector>

namespace tessera::darknet {

struct UpstreamCommand {
  std::string word;           // "yolo"
  std::size_t words_min = 0;  // after it; upstream itself reads beyond its argument list when there are fewer
};

const std::vector<UpstreamCommand>& upstream_commands();

// Sub-commands of `detector` and `classifier` that only upstream has.
bool is_upstream_subcommand(const std::string& command, const std::string& subcommand);

// Runs upstream's main() on the command line as it was given.
int run_upstream_main(int argc, char** argv);

}  // namespace tessera::darknet
