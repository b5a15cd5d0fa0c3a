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
#include <iterator>

#include "base/file_kind.hpp"

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

void append_utf8(std::string& text, char32_t letter) {
  const auto add = [&](char32_t bits) { text += static_cast<char>(static_cast<unsigned char>(bits)); };
  if (letter < 0x80) return add(letter);
  const int more = letter < 0x800 ? 1 : letter < 0x10000 ? 2 : 3;
  add((0xFF00u >> (more + 1) & 0xFF) | letter >> 6 * more);
  for (int i = more; i-- > 0;) add(0x80 | (letter >> 6 * i & 0x3F));
}

// Bytes of the UTF-8 character at the start of a text that is not empty; 0: it is none.
std::size_t utf8_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  if (byte(0) < 0x80) return 1;
  const std::size_t length = byte(0) >= 0xF8 ? 0 : byte(0) >= 0xF0 ? 4 : byte(0) >= 0xE0 ? 3 : byte(0) >= 0xC2 ? 2 : 0;
  if (length == 0 || text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i)
    if ((byte(i) & 0xC0) != 0x80) return 0;
  return length;
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

std::string decoded_text(std::string_view bytes) {
  if (bytes.starts_with("\xEF\xBB\xBF")) return std::string(bytes.substr(3));
  const bool little = bytes.starts_with("\xFF\xFE") || (bytes.size() >= 4 && bytes[0] && !bytes[1] && bytes[2] && !bytes[3]);
  const bool big = bytes.starts_with("\xFE\xFF") || (bytes.size() >= 4 && !bytes[0] && bytes[1] && !bytes[2] && bytes[3]);
  if (!little && !big) return std::string(bytes);
  const auto unit = [&](std::size_t at) {
    const auto first = static_cast<unsigned char>(bytes[at]), second = static_cast<unsigned char>(bytes[at + 1]);
    return static_cast<char32_t>(little ? first | second << 8 : first << 8 | second);
  };
  std::string text;
  for (std::size_t i = 0; i + 1 < bytes.size(); i += 2) {
    char32_t letter = unit(i);
    const char32_t next = i + 3 < bytes.size() ? unit(i + 2) : 0;
    if (letter >= 0xD800 && letter < 0xDC00 && next >= 0xDC00 && next < 0xE000) {
      letter = 0x10000 + ((letter - 0xD800) << 10) + (next - 0xDC00);
      i += 2;
    }
    if (letter != 0xFEFF) append_utf8(text, letter);
  }
  return text;
}

std::string quoted(std::string_view text, std::size_t most) {
  std::string result;
  for (std::size_t i = 0; i < text.size();) {
    if (result.size() >= most) return result + "...";
    const auto byte = static_cast<unsigned char>(text[i]);
    const std::size_t length = utf8_length(text.substr(i));
    if (byte < 0x20 || byte == 0x7F || length == 0)
      result += fmt::format("\\x{:02x}", byte);
    else
      result += text.substr(i, length);
    i += std::max<std::size_t>(1, length);
  }
  return result;
}

std::vector<std::string> lines_of(std::string_view text) {
  std::vector<std::string> lines;
  while (!text.empty()) {
    const std::size_t end = text.find_first_of("\r\n");
    lines.push_back(trimmed(text.substr(0, end)));
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + (text.substr(end).starts_with("\r\n") ? 2 : 1));
  }
  return lines;
}

std::string without_comment(std::string_view line) {
  for (std::size_t i = 0; i < line.size(); ++i)
    if ((line[i] == '#' || line[i] == ';') && (i == 0 || is_space(line[i - 1]))) return trimmed(line.substr(0, i));
  return trimmed(line);
}

std::string local_path(std::string path) {
  std::error_code none;
  if (path.find('\\') != std::string::npos && !std::filesystem::exists(path, none)) std::replace(path.begin(), path.end(), '\\', '/');
  return path;
}

base::Result<std::string> read_text(const std::string& path, std::string_view what) {
  TESSERA_TRY(check_regular(path, what));
  std::ifstream file(path, std::ios::binary);
  if (!file) return base::error(base::ErrorCode::kNotFound, "{}: cannot open the {}: {}", path, what, std::strerror(errno));
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  if (file.bad()) return base::error(base::ErrorCode::kIo, "{}: reading the {} failed: {}", path, what, std::strerror(errno));
  std::string text = decoded_text(bytes);
  if (text.find('\0') == std::string::npos) return text;
  const std::string name = nature_of_bytes(bytes).name;
  return base::error(base::ErrorCode::kInvalidArgument, "{}: is {}, no {}", path, name.empty() ? "no text" : name, what);
}

base::Result<std::vector<std::string>> read_lines(const std::string& path, std::string_view what) {
  TESSERA_ASSIGN(const std::string text, read_text(path, what));
  return lines_of(text);
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
  // So that the rename itself survives a power cut. Some file systems cannot; the data is safe either way.
  const std::string folder = std::filesystem::path(path).parent_path().string();
  if (const int handle = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); handle >= 0) {
    ::fsync(handle);
    ::close(handle);
  }
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
