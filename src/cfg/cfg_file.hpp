// A cfg as text: sections and their `key=value` options with line numbers. Knows no keys (cfg_keys.hpp) and no
// meaning (cfg_check.hpp).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"

namespace tessera::cfg {

struct CfgOption {
  std::string key, value;
  int line = 0;
};

struct CfgSection {
  std::string name;  // without brackets
  int line = 0;
  std::vector<CfgOption> options;

  const CfgOption* find(std::string_view key) const;
  // Values of checked options; the fallback is Darknet's default.
  long integer(std::string_view key, long fallback) const;
  double real(std::string_view key, double fallback) const;
  std::string text(std::string_view key, std::string_view fallback) const;
  // Line of the option, or of the section header where the option is absent.
  int line_of(std::string_view key) const;
};

struct CfgFile {
  std::string path;
  std::vector<CfgSection> sections;
  std::vector<std::string> warnings;  // `file:line: ...`, for people
};

// White space is ignored everywhere, `#` and `;` start a comment. A line that is neither a section, an option nor a
// comment is an error (`file:line: ...`). Of an option given twice in one section the first counts, as in Darknet;
// the second gets a warning.
[[nodiscard]] base::Result<CfgFile> parse_cfg(std::string path, const std::vector<std::string>& lines);
[[nodiscard]] base::Result<CfgFile> read_cfg_file(const std::string& path);

}  // namespace tessera::cfg
