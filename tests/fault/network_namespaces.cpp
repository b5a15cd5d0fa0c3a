#include "tests/fault/network_namespaces.hpp"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <stdexcept>

namespace tessera::testing {
namespace {

constexpr const char* kPrefix = "tessera-test-";
constexpr const char* kNamespaces = "/run/netns";

// Runs `ip ...` and returns what it printed when it failed, else nothing.
std::string failure_of_ip(const std::string& arguments) {
  const std::string command = "ip " + arguments + " 2>&1";
  FILE* pipe = ::popen(command.c_str(), "r");
  if (!pipe) return "no shell";
  std::string printed;
  std::array<char, 512> part;
  while (std::fgets(part.data(), part.size(), pipe)) printed += part.data();
  if (::pclose(pipe) == 0) return {};
  return printed.empty() ? "it failed" : printed;
}

void ip_or_throw(const std::string& arguments) {
  if (const std::string why = failure_of_ip(arguments); !why.empty())
    throw std::runtime_error(fmt::format("`ip {}`: {} (this test needs root, network namespaces and Debian's iproute2)", arguments, why));
}

// Namespaces of test programs that were killed before they could clean up.
void remove_orphans() {
  std::error_code absent;
  for (const auto& entry : std::filesystem::directory_iterator(kNamespaces, absent)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kPrefix)) continue;
    const pid_t owner = std::atoi(name.c_str() + std::string(kPrefix).size());
    if (owner > 0 && ::kill(owner, 0) != 0) failure_of_ip("netns delete " + name);
  }
}

}  // namespace

NetworkNamespaces::NetworkNamespaces(int computers) : computers_(computers) {
  remove_orphans();
  try {
    build();
  } catch (...) {
    remove();
    throw;
  }
}

NetworkNamespaces::~NetworkNamespaces() { remove(); }

void NetworkNamespaces::build() const {
  const std::string hub = name(-1);
  ip_or_throw("netns add " + hub);
  ip_or_throw(fmt::format("-n {} link add switch type bridge forward_delay 0", hub));
  ip_or_throw(fmt::format("-n {} link set switch up", hub));
  for (int computer = 0; computer < computers_; ++computer) {
    const std::string own = name(computer);
    ip_or_throw("netns add " + own);
    ip_or_throw(fmt::format("-n {} link add port{} type veth peer name eth0 netns {}", hub, computer, own));
    ip_or_throw(fmt::format("-n {} link set port{} master switch up", hub, computer));
    ip_or_throw(fmt::format("-n {} link set lo up", own));
    ip_or_throw(fmt::format("-n {} address add {}/24 dev eth0", own, ip(computer)));
    ip_or_throw(fmt::format("-n {} link set eth0 up", own));
  }
}

void NetworkNamespaces::remove() const {
  for (int computer = -1; computer < computers_; ++computer) failure_of_ip("netns delete " + name(computer));
}

std::vector<std::string> NetworkNamespaces::inside(int computer) const { return {"ip", "netns", "exec", name(computer)}; }

std::string NetworkNamespaces::ip(int computer) const { return fmt::format("10.88.0.{}", computer + 1); }

void NetworkNamespaces::pull_cable(int computer) const { ip_or_throw(fmt::format("-n {} link set port{} down", name(-1), computer)); }

void NetworkNamespaces::plug_in_cable(int computer) const { ip_or_throw(fmt::format("-n {} link set port{} up", name(-1), computer)); }

std::string NetworkNamespaces::name(int computer) const {
  return fmt::format("{}{}-{}", kPrefix, ::getpid(), computer < 0 ? std::string("switch") : fmt::to_string(computer));
}

}  // namespace tessera::testing
