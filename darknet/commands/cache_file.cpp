#include "darknet/commands/cache_file.hpp"

#include <cstdlib>
#include <filesystem>

namespace tessera::darknet {

std::string backend_cache_file() {
  // The XDG specification wants relative paths ignored.
  const auto absolute = [](const char* variable) {
    const char* value = std::getenv(variable);
    return value && std::filesystem::path(value).is_absolute() ? std::filesystem::path(value) : std::filesystem::path();
  };
  std::filesystem::path folder = absolute("XDG_CACHE_HOME");
  if (folder.empty() && !absolute("HOME").empty()) folder = absolute("HOME") / ".cache";
  return folder.empty() ? std::string() : (folder / "tessera" / "backends.json").string();
}

}  // namespace tessera::darknet
