// The [distributed] section of a cfg, as written.
#pragma once

#include <map>
#include <string>

namespace tessera::cfg {

// One `key=value` of the cfg's [distributed] section, with the line it stands on.
struct Setting {
  std::string value;
  int line = 0;
};

// The [distributed] section as written. Keys are known and single (the cfg check refuses others); values are
// checked by whoever understands them, who reports `file:line`.
struct DistributedSection {
  bool present = false;
  int first_layer = 0;  // index of the first layer after the section
  std::string file;     // the cfg
  int line = 0;         // of the section header
  std::map<std::string, Setting> settings;
};

}  // namespace tessera::cfg
