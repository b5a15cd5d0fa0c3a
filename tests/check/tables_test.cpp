// Tables in documents that are made from the code. `make tables` writes them, `make check` compares.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <filesystem>
#include <regex>
#include <string>

#include "cfg/distributed_keys.hpp"
#include "tests/check/documents.hpp"

using namespace tessera::testing;

TEST_CASE("tables: the keys of [distributed] in README.md") {
  std::string table = "| key | values | default | what it says | what it changes |\n|---|---|---|---|---|\n";
  for (const auto& key : tessera::cfg::distributed_keys())
    table += fmt::format("| `{}` | {} | {} | {} | {} |\n", key.name, key.values, key.fallback, key.meaning, key.changes);
  hold("README.md", "keys", table);
}

TEST_CASE("the files that documents name exist") {
  int names = 0;
  for (const std::string document : {"README.md", "CONTRIBUTING.md", "darknet/README.md", "src/README.md", "src/kernels/README.md"}) {
    const std::string text = read_document(document);
    static const std::regex named(R"(`((?:[a-z_0-9]+/)+[a-z_0-9.]+\.(?:cpp|hpp|sh|md))`)");
    for (std::sregex_iterator name(text.begin(), text.end(), named), end; name != end; ++name, ++names) {
      const std::string path = (*name)[1];
      const auto exists = [&](const std::string& folder) { return std::filesystem::exists(TESSERA_SOURCE_ROOT "/" + folder + path); };
      CHECK_MESSAGE((exists("") || exists("src/") || exists("darknet/")), document, " names ", path, ", which is not there");
    }
  }
  CHECK(names > 20);
}
