#include "cfg/cfg_file.hpp"

#include <algorithm>

#include "base/file_kind.hpp"
#include "base/text.hpp"

namespace tessera::cfg {

const CfgOption* CfgSection::find(std::string_view key) const {
  const auto found = std::find_if(options.begin(), options.end(), [&](const CfgOption& o) { return o.key == key; });
  return found == options.end() ? nullptr : &*found;
}

long CfgSection::integer(std::string_view key, long fallback) const {
  const CfgOption* option = find(key);
  return option ? base::to_integer(option->value).value_or(fallback) : fallback;
}

double CfgSection::real(std::string_view key, double fallback) const {
  const CfgOption* option = find(key);
  return option ? base::to_real(option->value).value_or(fallback) : fallback;
}

std::string CfgSection::text(std::string_view key, std::string_view fallback) const {
  const CfgOption* option = find(key);
  return option ? option->value : std::string(fallback);
}

int CfgSection::line_of(std::string_view key) const {
  const CfgOption* option = find(key);
  return option ? option->line : line;
}

namespace {

// A comment may follow a value without a space, except where it would cut a path.
std::string without_cfg_comment(const std::string& line) {
  const std::string before = line.substr(0, line.find_first_of("#;"));
  return before.find('/') == std::string::npos ? before : base::without_comment(line);
}

}  // namespace

base::Result<CfgFile> parse_cfg(std::string path, const std::vector<std::string>& lines) {
  CfgFile file{std::move(path), {}, {}};
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const int number = static_cast<int>(i) + 1;
    const std::string line = base::without_spaces(without_cfg_comment(lines[i]));
    if (line.empty()) continue;
    if (line.front() == '[') {
      if (line.back() != ']' || line.size() < 3)
        return base::error(base::ErrorCode::kInvalidArgument, "{}:{}: '{}' is no section; write [name]", file.path, number,
                           base::quoted(line));
      file.sections.push_back({line.substr(1, line.size() - 2), number, {}});
      continue;
    }
    const std::size_t equals = line.find('=');
    if (equals == std::string::npos || equals == 0 || equals + 1 == line.size())
      return base::error(base::ErrorCode::kInvalidArgument, "{}:{}: '{}' is no option; write key=value", file.path, number,
                         base::quoted(line));
    if (file.sections.empty())
      return base::error(base::ErrorCode::kInvalidArgument, "{}:{}: '{}' stands before the first section; start the file with [net]{}",
                         file.path, number, base::quoted(line), base::it_is(file.path));
    CfgSection& section = file.sections.back();
    CfgOption option{line.substr(0, equals), line.substr(equals + 1), number};
    if (const CfgOption* earlier = section.find(option.key)) {
      file.warnings.push_back(fmt::format("{}:{}: '{}' was given on line {} already; {}={} counts", file.path, number, option.key,
                                          earlier->line, option.key, earlier->value));
      continue;
    }
    section.options.push_back(std::move(option));
  }
  if (file.sections.empty())
    return base::error(base::ErrorCode::kInvalidArgument, "{}: has no sections; a cfg starts with [net]", file.path);
  return file;
}

base::Result<CfgFile> read_cfg_file(const std::string& path) {
  TESSERA_ASSIGN(const std::vector<std::string> lines, base::read_lines(path, "cfg"));
  return parse_cfg(path, lines);
}

}  // namespace tessera::cfg
