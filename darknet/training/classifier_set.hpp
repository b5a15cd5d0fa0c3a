// What a classifier's .data file says: labels, and the pictures of `train =` and `valid =`.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "cfg/data_file.hpp"
#include "data/image_set.hpp"

namespace tessera::darknet {

// labels=, or names= where that is all there is. `outputs` of the network, or 0: without one.
[[nodiscard]] base::Result<std::vector<std::string>> read_labels_list(const cfg::DataFile& data, int outputs);

// `key`: train or valid. Not empty. Errors name the key's line.
[[nodiscard]] base::Result<std::unique_ptr<data::ImageSet>> open_set(const cfg::DataFile& data, const std::string& key,
                                                                     const std::vector<std::string>& labels);

}  // namespace tessera::darknet
