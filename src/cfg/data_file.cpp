#include "cfg/data_file.hpp"

#include <algorithm>
#include <filesystem>

#include "base/text.hpp"

namespace tessera::cfg {

std::string DataFile::where(const std::string& key) const {
  const auto found = lines.find(key);
  return found == lines.end() ? path : fmt::format("{}:{}", path, found->second);
}

namespace {

// What looks like a comment belongs to a path when there is a file of the whole name.
std::string whole_value(const std::string& line, const std::string& value) {
  const std::string whole = base::trimmed(line.substr(line.find('=') + 1));
  std::error_code none;
  return whole.size() > value.size() && std::filesystem::exists(whole, none) ? whole : value;
}

}  // namespace

base::Result<DataFile> parse_data_file(std::string path, const std::vector<std::string>& lines) {
  DataFile data;
  data.path = std::move(path);
  const std::map<std::string, std::string*> texts = {{"train", &data.train},   {"valid", &data.valid},   {"names", &data.names},
                                                     {"labels", &data.labels}, {"backup", &data.backup}, {"results", &data.results},
                                                     {"eval", &data.eval},     {"map", &data.map},       {"test", &data.test},
                                                     {"tree", &data.tree},     {"leaves", &data.leaves}, {"augment", &data.augment}};
  const std::map<std::string, int*> numbers = {{"classes", &data.classes}, {"top", &data.top}};
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const int number = static_cast<int>(i) + 1;
    const std::string line = base::without_comment(lines[i]);
    if (line.empty()) continue;
    if (line.front() == '[')
      return base::error(base::ErrorCode::kInvalidArgument, "{}:{}: '{}' is a section of a cfg file, but a .data file is wanted here",
                         data.path, number, base::quoted(line));
    const std::size_t equals = line.find('=');
    const std::string key = base::trimmed(line.substr(0, equals));
    const std::string value = equals == std::string::npos ? "" : base::trimmed(line.substr(equals + 1));
    if (key.empty() || value.empty())
      return base::error(base::ErrorCode::kInvalidArgument, "{}:{}: '{}' is no option; write key = value", data.path, number,
                         base::quoted(line));
    data.lines[key] = number;
    if (const auto text = texts.find(key); text != texts.end()) {
      *text->second = base::local_path(whole_value(lines[i], value));
    } else if (const auto whole = numbers.find(key); whole != numbers.end()) {
      const auto parsed = base::to_integer(value);
      if (!parsed || *parsed < 1 || *parsed > 1000000)
        return base::error(base::ErrorCode::kInvalidArgument, "{}:{}: {}={} is no good value; it must be a whole number of at least 1",
                           data.path, number, key, base::quoted(value));
      *whole->second = static_cast<int>(*parsed);
    } else {
      std::vector<std::string> known;
      for (const auto& [name, unused] : texts) known.push_back(name);
      for (const auto& [name, unused] : numbers) known.push_back(name);
      const std::string near = base::nearest(key, known);
      return base::error(base::ErrorCode::kInvalidArgument, "{}:{}: there is no key '{}'{}", data.path, number, base::quoted(key),
                         near.empty() ? "; the keys are classes, train, valid, names, backup, eval, results, map"
                                      : fmt::format("; did you mean '{}'?", near));
    }
  }
  return data;
}

base::Result<DataFile> read_data_file(const std::string& path) {
  TESSERA_ASSIGN(const std::vector<std::string> lines, base::read_lines(path, ".data file"));
  return parse_data_file(path, lines);
}

base::Result<std::vector<std::string>> read_names(const DataFile& file, int classes) {
  const bool labels = file.names.empty() && !file.labels.empty();
  const std::string path = labels ? file.labels : file.names;
  if (path.empty())
    return base::error(base::ErrorCode::kInvalidArgument, "{}: has no names=; add names = FILE with one class name per line", file.path);
  TESSERA_ASSIGN(std::vector<std::string> names, base::read_list(path, "list of class names"));
  if (classes && names.size() != static_cast<std::size_t>(classes))
    return base::error(base::ErrorCode::kInvalidArgument, "{}: {} has {} names, but there are {} classes; make them equal",
                       file.where(labels ? "labels" : "names"), path, names.size(), classes);
  return names;
}

}  // namespace tessera::cfg
