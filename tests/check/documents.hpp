// Tables in documents that are made from the code. Only for files of tests/check.
#pragma once

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

#include "base/text.hpp"

namespace tessera::testing {

inline std::string read_document(const std::string& document) {
  std::ifstream file(TESSERA_SOURCE_ROOT "/" + document, std::ios::binary);
  REQUIRE_MESSAGE(file.is_open(), "cannot read ", document);
  return {std::istreambuf_iterator<char>(file), {}};
}

// `table` stands in the document between its two marks, or is put there (`make tables`).
inline void hold(const std::string& document, const std::string& name, const std::string& table) {
  const std::string begin = fmt::format("<!-- table of {}: make tables -->\n", name), end = fmt::format("<!-- end of {} -->", name);
  std::string text = read_document(document);
  const std::size_t first = text.find(begin), last = text.find(end);
  REQUIRE_MESSAGE(first != std::string::npos, document, " has no mark ", begin);
  REQUIRE_MESSAGE(last != std::string::npos, document, " has no mark ", end);
  const std::size_t start = first + begin.size();
  if (std::getenv("TESSERA_WRITE_TABLES") != nullptr)
    REQUIRE(base::write_file_atomically(TESSERA_SOURCE_ROOT "/" + document, text.replace(start, last - start, table)));
  CHECK_MESSAGE(read_document(document).find(begin + table + end) != std::string::npos, document, ": the table of ", name,
                " is stale; run make tables");
}

}  // namespace tessera::testing
