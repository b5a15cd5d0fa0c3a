// Finds, before the first iteration, what would stop or spoil a training hours later.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "cfg/cfg_check.hpp"
#include "cfg/data_file.hpp"

namespace tessera::darknet {

// What reading a list of images and their labels found.
struct ListFindings {
  std::size_t images = 0;
  std::size_t checked = 0;  // fewer than `images` when time ran out
  std::size_t objects = 0;
  std::vector<std::string> bad_images;      // "path: reason", in the list's order
  std::vector<std::string> bad_labels;      // "path[:line]: reason"
  std::vector<std::string> missing_labels;  // label files that are not there
};

// Opens every image's header and reads every label in several threads, for at most `seconds`; spread evenly over the
// list when that is too short.
ListFindings check_list(const std::vector<std::string>& images, int classes, double seconds);

struct PreflightInput {
  const cfg::Cfg* cfg = nullptr;
  const cfg::DataFile* data = nullptr;
  bool with_map = false;
  std::uint64_t weights_bytes = 0;  // of one weights file
};

struct PreflightResult {
  std::vector<std::string> train, valid;  // the lists
  std::vector<std::string> names;
  std::string summary;                // one line
  std::vector<std::string> warnings;  // one line each
};

// Writes bad.list and bad_label.list to the working directory when there is something to list. Creates the backup
// folder. Errors are those no training should start with.
[[nodiscard]] base::Result<PreflightResult> preflight_detector(const PreflightInput& input);

// Makes the folder if need be and proves that `bytes` can be written to it.
[[nodiscard]] base::Status check_backup_folder(const std::string& folder, const std::string& where, std::uint64_t bytes);

// A list of images that is not empty; `where` (file:line) and `key` name it in errors.
[[nodiscard]] base::Result<std::vector<std::string>> read_image_list(const cfg::DataFile& data, const std::string& key,
                                                                     const std::string& path);

}  // namespace tessera::darknet
