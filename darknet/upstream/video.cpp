#include "darknet/upstream/video.hpp"

#include <dlfcn.h>

#include <cstdio>
#include <filesystem>

// Defined in darknet-video.so, or in the program itself where that is linked to the libraries (stock Darknet, tests).
extern "C" __attribute__((weak)) const tessera::darknet::VideoLibrary* darknet_video_library_1();

namespace tessera::darknet {
namespace {

namespace fs = std::filesystem;

const VideoLibrary* load() {
  if (darknet_video_library_1 != nullptr) return darknet_video_library_1();
  std::error_code unreadable;
  const fs::path folder = fs::read_symlink("/proc/self/exe", unreadable).parent_path();
  std::string reason;
  for (const fs::path& path : {folder / "darknet-video.so", folder.parent_path() / "lib" / "darknet-video.so"}) {
    if (void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) {
      using Entry = const VideoLibrary* (*)();
      if (const auto entry = reinterpret_cast<Entry>(dlsym(library, "darknet_video_library_1"))) return entry();
    }
    if (reason.empty() || fs::exists(path, unreadable)) reason = dlerror();
  }
  std::fprintf(stderr, "No videos and no windows: %s (darknet-video.so, which `make` builds, belongs beside darknet or into ../lib)\n",
               reason.c_str());
  return nullptr;
}

}  // namespace

const VideoLibrary* video_library() {
  static const VideoLibrary* const library = load();
  return library;
}

}  // namespace tessera::darknet
