#include "transport/address.hpp"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <charconv>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

namespace tessera::transport {
namespace {

constexpr std::string_view kTcp = "tcp://", kIpc = "ipc://", kInproc = "inproc://";

tl::unexpected<base::Error> bad_address(std::string_view text, std::string_view why) {
  return base::error(base::ErrorCode::kInvalidArgument, "bad address '{}': {}; use tcp://host:port, tcp://[ipv6]:port or ipc:///path", text,
                     why);
}

bool is_ipv4(const std::string& host) {
  in_addr ignored;
  return inet_pton(AF_INET, host.c_str(), &ignored) == 1;
}

bool is_ipv6(const std::string& host) {
  in6_addr ignored;
  return inet_pton(AF_INET6, host.substr(0, host.find('%')).c_str(), &ignored) == 1;
}

// Letters, digits and what else host and interface names contain; keeps out everything with a meaning of its own in
// a ZeroMQ endpoint (such as ';', which separates a source address).
bool is_host_name(std::string_view host) {
  constexpr std::string_view kAllowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._";
  return !host.empty() && host.size() <= 253 && host.find_first_not_of(kAllowed) == std::string_view::npos;
}

base::Result<std::string> parse_port(std::string_view text, std::string_view port) {
  if (port == "*") return std::string(port);
  int number = -1;
  const auto [end, failure] = std::from_chars(port.data(), port.data() + port.size(), number);
  if (port.empty() || failure != std::errc{} || end != port.data() + port.size() || number < 0 || number > 65535) {
    return bad_address(text, "the port must be 1 to 65535, or * for any free one");
  }
  return number == 0 ? std::string("*") : std::to_string(number);
}

base::Result<Address> parse_tcp(std::string_view text) {
  std::string_view rest = text.substr(kTcp.size());
  Address address;
  address.scheme = Scheme::kTcp;
  if (rest.starts_with('[')) {
    const auto close = rest.find(']');
    if (close == std::string_view::npos) return bad_address(text, "']' is missing");
    address.host = rest.substr(1, close - 1);
    rest = rest.substr(close + 1);
    if (!is_ipv6(address.host)) return bad_address(text, "not an IPv6 address between the brackets");
  } else {
    const auto colon = rest.rfind(':');
    address.host = rest.substr(0, colon);
    rest = colon == std::string_view::npos ? std::string_view{} : rest.substr(colon);
    if (address.host != "*" && !is_host_name(address.host)) return bad_address(text, "not a host name or address");
  }
  if (!rest.starts_with(':')) return bad_address(text, "the port is missing");
  TESSERA_ASSIGN(address.port, parse_port(text, rest.substr(1)));
  return address;
}

// Filled by a thread of its own: getaddrinfo() cannot be interrupted, and may take longer than anybody wants to wait.
struct Lookup {
  std::mutex mutex;
  std::condition_variable done;
  bool finished = false;
  std::string ip;
  std::string failure;
};

void look_up(const std::string& host, Lookup& lookup) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int status = getaddrinfo(host.c_str(), nullptr, &hints, &found);
  std::string ip4, ip6;
  for (const addrinfo* entry = status == 0 ? found : nullptr; entry != nullptr; entry = entry->ai_next) {
    char text[NI_MAXHOST];
    if (getnameinfo(entry->ai_addr, entry->ai_addrlen, text, sizeof(text), nullptr, 0, NI_NUMERICHOST) != 0) continue;
    std::string& ip = entry->ai_family == AF_INET ? ip4 : ip6;
    if (ip.empty()) ip = text;
  }
  if (status == 0) freeaddrinfo(found);
  std::lock_guard lock(lookup.mutex);
  lookup.ip = ip4.empty() ? ip6 : ip4;
  lookup.failure = status == 0 ? "no address found" : gai_strerror(status);
  lookup.finished = true;
  lookup.done.notify_all();
}

}  // namespace

base::Result<Address> parse_address(std::string_view text) {
  if (text.find('\0') != std::string_view::npos) return bad_address("", "it contains a zero byte");
  if (text.starts_with(kTcp)) return parse_tcp(text);
  Address address;
  if (text.starts_with(kIpc)) {
    address.scheme = Scheme::kIpc;
    address.path = text.substr(kIpc.size());
    // sockaddr_un has room for 107 bytes and a zero.
    if (address.path.size() > 107) return bad_address(text, "the path is longer than the 107 bytes a socket may have");
  } else if (text.starts_with(kInproc)) {
    address.scheme = Scheme::kInproc;
    address.path = text.substr(kInproc.size());
  } else {
    return bad_address(text, "unknown scheme");
  }
  if (address.path.empty()) return bad_address(text, "the path is missing");
  return address;
}

std::string to_string(const Address& address) {
  switch (address.scheme) {
    case Scheme::kIpc:
      return std::string(kIpc) + address.path;
    case Scheme::kInproc:
      return std::string(kInproc) + address.path;
    case Scheme::kTcp:
      break;
  }
  const bool ip6 = address.host.find(':') != std::string::npos;
  return fmt::format("tcp://{}{}{}:{}", ip6 ? "[" : "", address.host, ip6 ? "]" : "", address.port);
}

bool is_local_bind(const Address& address) {
  if (address.scheme != Scheme::kTcp) return true;
  if (address.host == "localhost") return true;
  in_addr ip4;
  if (inet_pton(AF_INET, address.host.c_str(), &ip4) == 1) return ntohl(ip4.s_addr) >> 24 == 127;
  in6_addr ip6;
  if (inet_pton(AF_INET6, address.host.c_str(), &ip6) == 1) return IN6_IS_ADDR_LOOPBACK(&ip6);
  return false;
}

bool is_local_bind(std::string_view text) {
  const auto address = parse_address(text);
  return address && is_local_bind(*address);
}

base::Result<Address> resolve(const Address& address, base::Deadline deadline) {
  Address resolved = address;
  if (address.scheme != Scheme::kTcp || address.host == "*" || is_ipv4(address.host) || is_ipv6(address.host)) return resolved;
  // Whatever a name server says, localhost stays on this machine: is_local_bind() relies on it.
  if (address.host == "localhost") {
    resolved.host = "127.0.0.1";
    return resolved;
  }
  auto lookup = std::make_shared<Lookup>();
  std::thread([lookup, host = address.host] { look_up(host, *lookup); }).detach();
  std::unique_lock lock(lookup->mutex);
  if (!lookup->done.wait_until(lock, deadline.when(), [&] { return lookup->finished; })) {
    return base::error(base::ErrorCode::kIo,
                       "{}: the name server does not answer for '{}'; use an IP address or check "
                       "/etc/resolv.conf",
                       to_string(address), address.host);
  }
  if (lookup->ip.empty()) {
    return base::error(base::ErrorCode::kIo, "{}: unknown host '{}' ({}); check the spelling or use an IP address", to_string(address),
                       address.host, lookup->failure);
  }
  resolved.host = lookup->ip;
  return resolved;
}

base::Result<std::string> with_host(std::string_view address, std::string_view host) {
  TESSERA_ASSIGN(Address parsed, parse_address(address));
  if (parsed.scheme != Scheme::kTcp) return to_string(parsed);
  parsed.host = host;
  TESSERA_TRY(parse_address(to_string(parsed)).map([](const Address&) {}));
  return to_string(parsed);
}

}  // namespace tessera::transport
