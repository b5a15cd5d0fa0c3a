// Darknet's .data file: which lists, names and folders a training or a test uses.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/result.hpp"

namespace tessera::cfg {

// Keys: classes train valid names backup eval results map; for classifiers also labels top test tree leaves, and augment
// (data/pad_crop.hpp), which is our own; every
// other key is an error with its line.
// Paths are used as written, relative to the working directory, as Darknet does.
struct DataFile {
  std::string path;
  int classes = 0;  // 0: not given
  int top = 1;
  std::string train, valid, names, labels, map, test, tree, leaves, augment;
  std::string backup = "./backup";
  std::string results = "results";
  std::string eval = "voc";
  std::map<std::string, int> lines;  // of the keys that were given

  // `file:line` of a key, or the file alone.
  std::string where(const std::string& key) const;
};

[[nodiscard]] base::Result<DataFile> parse_data_file(std::string path, const std::vector<std::string>& lines);
[[nodiscard]] base::Result<DataFile> read_data_file(const std::string& path);

// The class names; an error unless there are exactly `classes` of them (0: any number).
[[nodiscard]] base::Result<std::vector<std::string>> read_names(const DataFile& file, int classes);

}  // namespace tessera::cfg
