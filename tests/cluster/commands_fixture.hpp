// A folder with a tiny labelled data set and cfgs, and the built program to run in it.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace tessera::testing {

struct Outcome {
  int code = -1;  // exit code; 128 + signal
  std::string out, err;
  double seconds = 0;
  bool timed_out = false;
};

// The built program under test.
std::string program();

// Two classes: bright squares ("square") and dark discs ("disc") on grey noise, 64x64 pixels; 24 training and 8
// validation images in images/, labels in labels/, train.txt, valid.txt, obj.names, obj.data, tiny.cfg (YOLOv3 head)
// and region.cfg (YOLOv2 head).
class Workshop {
 public:
  Workshop();
  ~Workshop();
  Workshop(const Workshop&) = delete;
  Workshop& operator=(const Workshop&) = delete;

  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  void write(const std::string& name, const std::string& text) const;
  std::string read(const std::string& name) const;
  bool has(const std::string& name) const { return std::filesystem::exists(folder_ / name); }
  void remove(const std::string& name) const { std::filesystem::remove_all(folder_ / name); }

  // Runs `darknet words...` in the folder (a copy of the program there, if there is one), `input` as its stdin. Killed after `limit_seconds`. `signal_after_line`:
  // sends SIGINT as soon as stdout has a line that starts with it.
  Outcome run(const std::vector<std::string>& words, const std::string& input = "", double limit_seconds = 120,
              const std::string& signal_after_line = "") const;

  // The text of tiny.cfg with `from` replaced by `to` (which must occur), written as `name`.
  void derive_cfg(const std::string& name, const std::string& from, const std::string& to, const std::string& base = "tiny.cfg") const;

 private:
  std::filesystem::path folder_;
};

}  // namespace tessera::testing
