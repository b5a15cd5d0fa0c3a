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
  std::vector<std::size_t> of_class;        // objects of each class
  std::vector<std::string> bad_images;      // "path: reason", in the list's order
  std::vector<std::size_t> bad_indices;     // of them in the list
  std::vector<std::string> bad_labels;      // "path[:line]: reason"
  std::vector<std::string> missing_labels;  // label files that are not there
  std::vector<std::string> crowded;         // images with more objects than the network can be told
};

struct ListCheck {
  int classes = 0;
  double seconds = 30;           // at most; when that is too short, images are looked at evenly over the list
  bool labels = true;            // false: the images alone
  int most_boxes = 0;            // per image; 0: any number
  bool may_lack_images = false;  // unreadable ones are a warning, unless all are
};

// Opens every image's header and reads every label in several threads.
ListFindings check_list(const std::vector<std::string>& images, const ListCheck& check);

// The preflight of what only tests: check_list(), bad.list and bad_label.list written to the working directory when there is
// something to list, warnings printed. An error when an image cannot be read, a label is wrong, or none is there.
[[nodiscard]] base::Status preflight_list(const cfg::DataFile& data, const std::string& key, const std::vector<std::string>& images,
                                          const ListCheck& check);

struct PreflightInput {
  const cfg::Cfg* cfg = nullptr;
  const cfg::DataFile* data = nullptr;
  bool with_map = false;
  std::uint64_t weights_bytes = 0;  // of one weights file
  int most_boxes = 0;               // per image that the network can be told; 0: any number
};

struct PreflightResult {
  std::vector<std::string> train, valid;  // the lists; train without the images that cannot be read
  std::vector<std::string> names;
  std::string summary;                // one line
  std::vector<std::string> warnings;  // one line each
};

// The preflight of a training. Writes the same lists; creates the backup folder. Errors are those no training should start with.
[[nodiscard]] base::Result<PreflightResult> preflight_detector(const PreflightInput& input);

// `images` without those that were found bad.
std::vector<std::string> usable_images(const std::vector<std::string>& images, const ListFindings& found);

// Makes the folder if need be and proves that `bytes` can be written to it.
[[nodiscard]] base::Status check_backup_folder(const std::string& folder, const std::string& where, std::uint64_t bytes);

// A list of images that is not empty; `where` (file:line) and `key` name it in errors.
[[nodiscard]] base::Result<std::vector<std::string>> read_image_list(const cfg::DataFile& data, const std::string& key,
                                                                     const std::string& path);

}  // namespace tessera::darknet
