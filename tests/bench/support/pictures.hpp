// The pictures that are trained on and looked at, in a folder that disappears with the program.
#pragma once

#include <filesystem>
#include <string>

#include "base/result.hpp"

namespace tessera::bench {

class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }  // empty: it could not be made

 private:
  std::filesystem::path path_;
};

[[nodiscard]] base::Status write_text(const std::filesystem::path& path, const std::string& text);

// Pictures of one coloured rectangle each, of kClasses colours, with labels where Darknet looks for them; their paths
// are in train.txt. Returns the .data file.
[[nodiscard]] base::Result<std::string> write_pictures(const std::filesystem::path& folder);

}  // namespace tessera::bench
