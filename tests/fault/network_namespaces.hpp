// Computers on a switch, emulated with Linux network namespaces: each has one cable, which can be pulled.
#pragma once

#include <string>
#include <vector>

namespace tessera::testing {

// Needs root and `ip` (Debian: iproute2); without them the constructor throws std::runtime_error with the reason.
class NetworkNamespaces {
 public:
  explicit NetworkNamespaces(int computers);
  ~NetworkNamespaces();
  NetworkNamespaces(const NetworkNamespaces&) = delete;
  NetworkNamespaces& operator=(const NetworkNamespaces&) = delete;

  // Computers are numbered from 0. What stands in front of a command to run it there.
  std::vector<std::string> inside(int computer) const;
  std::string ip(int computer) const;

  void pull_cable(int computer) const;
  void plug_in_cable(int computer) const;

 private:
  std::string name(int computer) const;  // of its namespace; the switch's is -1
  void build() const;
  void remove() const;

  const int computers_;
};

}  // namespace tessera::testing
