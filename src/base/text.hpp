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

// Lines of a text file, trimmed, without line ends; `what` names the file's purpose in the error.
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
