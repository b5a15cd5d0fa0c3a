#include "tests/support/oracle.hpp"

#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <stdexcept>

namespace tessera::testing {

StockNetwork parse_stock_network(const std::string& cfg_text) {
  std::string path = (std::filesystem::temp_directory_path() / "tessera-oracle-XXXXXX").string();
  const int file = mkstemp(path.data());
  if (file < 0) throw std::runtime_error("cannot create " + path);
  const bool complete = write(file, cfg_text.data(), cfg_text.size()) == static_cast<ssize_t>(cfg_text.size());
  close(file);
  StockNetwork net(complete ? stock_parse_network_cfg(path.data()) : nullptr);
  unlink(path.c_str());
  if (!net) throw std::runtime_error("cannot write " + path);
  return net;
}

}  // namespace tessera::testing
