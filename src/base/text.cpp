#include "base/text.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

namespace tessera::base {
namespace {

bool is_space(char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; }

// Insertions, deletions, substitutions and exchanges of neighbours that make `b` of `a`.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<std::size_t>> table(a.size() + 1, std::vector<std::size_t>(b.size() + 1));
  for (std::size_t i = 0; i <= a.size(); ++i)
    for (std::size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        table[i][j] = i + j;
        continue;
      }
      table[i][j] = std::min({table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) table[i][j] = std::min(table[i][j], table[i - 2][j - 2] + 1);
    }
  return table[a.size()][b.size()];
}

}  // namespace

std::string trimmed(std::string_view text) {
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return std::string(text);
}

std::string without_spaces(std::string_view text) {
  std::string result;
  std::copy_if(text.begin(), text.end(), std::back_inserter(result), [](char c) { return !is_space(c); });
  return result;
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  for (;;) {
    const std::size_t end = text.find(separator);
    parts.emplace_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

std::optional<long> to_integer(std::string_view text) {
  if (!text.empty() && text.front() == '+') text.remove_prefix(1);
  long value = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failure != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<double> to_real(std::string_view text) {
  const std::string copy(text);
  char* end = nullptr;
  const double value = std::strtod(copy.c_str(), &end);
  if (copy.empty() || is_space(copy.front()) || end != copy.c_str() + copy.size()) return std::nullopt;
  return value;
}

base::Status check_regular(const std::string& path, std::string_view what) {
  struct stat found {};
  if (::stat(path.c_str(), &found) != 0)
    return base::error(base::ErrorCode::kNotFound, "{}: cannot open the {}: {}", path, what, std::strerror(errno));
  if (S_ISDIR(found.st_mode)) return base::error(base::ErrorCode::kNotFound, "{}: is a folder; the {} must be a file", path, what);
  if (!S_ISREG(found.st_mode))
    return base::error(base::ErrorCode::kNotFound, "{}: is a pipe or a device; the {} must be a file", path, what);
  return {};
}

base::Result<std::vector<std::string>> read_lines(const std::string& path, std::string_view what) {
  TESSERA_TRY(check_regular(path, what));
  std::ifstream file(path);
  if (!file) return base::error(base::ErrorCode::kNotFound, "{}: cannot open the {}: {}", path, what, std::strerror(errno));
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(trimmed(line));
  if (file.bad()) return base::error(base::ErrorCode::kIo, "{}: reading the {} failed: {}", path, what, std::strerror(errno));
  return lines;
}

base::Result<std::vector<std::string>> read_list(const std::string& path, std::string_view what) {
  TESSERA_ASSIGN(std::vector<std::string> lines, read_lines(path, what));
  std::erase(lines, "");
  return lines;
}

base::Status write_file_atomically(const std::string& path, std::string_view content) {
  const std::string temporary = path + ".tmp";
  const auto failed = [&](const char* what) {
    const int reason = errno;
    ::unlink(temporary.c_str());
    return base::error(base::ErrorCode::kIo, "{}: {} failed: {}", path, what, std::strerror(reason));
  };
  const int file = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (file < 0) return failed("creating");
  while (!content.empty()) {
    const ssize_t written = ::write(file, content.data(), content.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) {
      const auto failure = failed("writing");
      ::close(file);
      return failure;
    }
    content.remove_prefix(static_cast<std::size_t>(written));
  }
  if (::fsync(file) != 0) {
    const auto failure = failed("writing to disk");
    ::close(file);
    return failure;
  }
  if (::close(file) != 0) return failed("closing");
  if (::rename(temporary.c_str(), path.c_str()) != 0) return failed("renaming");
  return {};
}

std::string base_name(const std::string& path) { return std::filesystem::path(path).stem().string(); }

std::string nearest(std::string_view word, std::span<const std::string> candidates) {
  std::string best;
  std::size_t best_distance = std::max<std::size_t>(1, word.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    const std::size_t distance = edit_distance(word, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

}  // namespace tessera::base
