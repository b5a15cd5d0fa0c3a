#include "darknet/upstream/upstream_commands.hpp"

#include <algorithm>

// examples/darknet.c's main(), compiled under another name.
extern "C" int upstream_main(int argc, char** argv);

namespace tessera::darknet {

const std::vector<UpstreamCommand>& upstream_commands() {
  static const std::vector<UpstreamCommand> commands = {
      {"average", 3},   {"yolo", 2},     {"super", 2},     {"lsd", 2},        {"cifar", 2},     {"go", 2},          {"rnn", 2},
      {"coco", 2},      {"classify", 3}, {"regressor", 3}, {"isegmenter", 3}, {"segmenter", 3}, {"art", 2},         {"tag", 2},
      {"3d", 3},        {"test", 1},     {"nightmare", 4}, {"rgbgr", 3},      {"reset", 3},     {"denormalize", 3}, {"statistics", 2},
      {"normalize", 3}, {"rescale", 3},  {"ops", 1},       {"speed", 1},      {"oneoff", 3},    {"oneoff2", 4},     {"print", 3},
      {"visualize", 1}, {"mkimg", 6},    {"imtest", 1},
  };
  return commands;
}

bool is_upstream_subcommand(const std::string& command, const std::string& subcommand) {
  static const std::vector<std::string> detector = {"valid2"};
  static const std::vector<std::string> classifier = {"fout", "try",   "demo",       "gun",     "threat",    "test",
                                                      "csv",  "label", "validmulti", "valid10", "validcrop", "validfull"};
  const std::vector<std::string>* known = command == "detector" ? &detector : command == "classifier" ? &classifier : nullptr;
  return known && std::find(known->begin(), known->end(), subcommand) != known->end();
}

int run_upstream_main(int argc, char** argv) { return upstream_main(argc, argv); }

}  // namespace tessera::darknet
