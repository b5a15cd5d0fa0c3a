// What the testing commands have in common: DATA CFG WEIGHTS, and images from an argument or from stdin.
#pragma once

#include <string>
#include <vector>

#include "base/result.hpp"
#include "cfg/data_file.hpp"
#include "darknet/commands/arguments.hpp"
#include "darknet/commands/engines.hpp"

namespace tessera::darknet {

struct DetectorUnderTest {
  cfg::DataFile data_file;
  LoadedNetwork loaded;
  std::vector<std::string> names;
};

// An error unless the network has a detection head and takes pictures of 3 channels.
[[nodiscard]] base::Status require_detector(const LoadedNetwork& loaded);

// The first three operands; as many class names as the network has classes.
[[nodiscard]] base::Result<DetectorUnderTest> load_detector_for_test(const Arguments& arguments);

// `image` alone, or the lines of stdin when it is empty. Nothing is asked: a terminal as stdin is an error.
[[nodiscard]] base::Result<std::vector<std::string>> images_to_test(const std::string& image, const Arguments& arguments);

}  // namespace tessera::darknet
