// What a file is, by its first bytes and its name: people exchange cfg and weights, download web pages in place of weights,
// and give another program's files.
#pragma once

#include <string>
#include <string_view>

namespace tessera::base {

enum class FileKind { kUnknown, kData, kCfg, kWeights, kImage, kOther };

struct FileNature {
  FileKind kind = FileKind::kUnknown;
  std::string name;  // "a web page", "a weights file", ...; "" when unknown
};

// `start`: the file's first bytes (some hundred are enough).
FileNature nature_of_bytes(std::string_view start);

// By its bytes, or, when these do not tell or there is no such file, by its extension.
FileNature nature_of_file(const std::string& path);

// "; it is a web page" for an error about a file that is of no use, or "".
std::string it_is(const std::string& path);

}  // namespace tessera::base
