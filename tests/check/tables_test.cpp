// Tables in documents that are made from the code. `make tables` writes them, `make check` compares.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

#include "base/text.hpp"
#include "cfg/distributed_keys.hpp"

namespace {

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  REQUIRE_MESSAGE(file.is_open(), "cannot read ", path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// `table` stands in the document between its two marks, or is put there.
void hold(const std::string& document, const std::string& name, const std::string& table) {
  const std::string path = std::string(TESSERA_SOURCE_ROOT "/") + document;
  const std::string begin = fmt::format("<!-- table of {}: make tables -->\n", name), end = fmt::format("<!-- end of {} -->", name);
  std::string text = read(path);
  const std::size_t first = text.find(begin), last = text.find(end);
  REQUIRE_MESSAGE(first != std::string::npos, document, " has no mark ", begin);
  REQUIRE_MESSAGE(last != std::string::npos, document, " has no mark ", end);
  const std::size_t start = first + begin.size();
  if (std::getenv("TESSERA_WRITE_TABLES") != nullptr)
    REQUIRE(tessera::base::write_file_atomically(path, text.replace(start, last - start, table)));
  CHECK_MESSAGE(read(path).find(begin + table + end) != std::string::npos, document, ": the table of ", name, " is stale; run make tables");
}

}  // namespace

TEST_CASE("tables: the keys of [distributed] in README.md") {
  std::string table = "| key | values | default | what it says | what it changes |\n|---|---|---|---|---|\n";
  for (const auto& key : tessera::cfg::distributed_keys())
    table += fmt::format("| `{}` | {} | {} | {} | {} |\n", key.name, key.values, key.fallback, key.meaning, key.changes);
  hold("README.md", "keys", table);
}
