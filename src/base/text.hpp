// Small text helpers shared by the readers of cfgs, .data files and lists.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"

namespace tessera::base {

// Without white space at either end (CR included, so files written on Windows read the same).
std::string trimmed(std::string_view text);

// Without any white space, as Darknet reads its cfgs.
std::string without_spaces(std::string_view text);

std::vector<std::string> split(std::string_view text, char separator);

// The whole of `text` as a number, or nothing.
std::optional<long> to_integer(std::string_view text);
std::optional<double> to_real(std::string_view text);

// Opening it cannot wait for ever: it is there and a regular file, no folder, pipe or device. kNotFound otherwise.
[[nodiscard]] base::Status check_regular(const std::string& path, std::string_view what);

// Bytes as people's editors leave them, as UTF-8: without a byte order mark, from UTF-16 of either order, other bytes as they
// are (an image's path need not be UTF-8).
std::string decoded_text(std::string_view bytes);

// Text from a file or the command line for a message of one line: control characters escaped, bytes that are no UTF-8
// replaced, cut off where it is long.
std::string quoted(std::string_view text, std::size_t most = 80);

// Lines end with LF, CR LF or CR; each is trimmed.
std::vector<std::string> lines_of(std::string_view text);

// The part before a comment: `#` or `;` at the start or after white space (elsewhere it belongs to a path).
std::string without_comment(std::string_view line);

// A path as somebody wrote it on Windows: where there is no such file and it has backslashes, with slashes instead.
std::string local_path(std::string path);

// A text file, decoded; `what` names the file's purpose in the error. What is no text (weights, pictures) is named.
[[nodiscard]] base::Result<std::string> read_text(const std::string& path, std::string_view what);

// Its lines, trimmed, without line ends.
[[nodiscard]] base::Result<std::vector<std::string>> read_lines(const std::string& path, std::string_view what);

// The same without empty lines: a list of paths, or of names.
[[nodiscard]] base::Result<std::vector<std::string>> read_list(const std::string& path, std::string_view what);

// Writes through a temporary file beside it, fsync and rename: the file is the old one or the new one.
[[nodiscard]] base::Status write_file_atomically(const std::string& path, std::string_view content);

// "dir/yolo-obj.cfg" -> "yolo-obj": what Darknet names its weights after.
std::string base_name(const std::string& path);

// The candidate nearest to `word` by edits (at most a third of its letters), or "".
std::string nearest(std::string_view word, std::span<const std::string> candidates);

}  // namespace tessera::base
