#include "cluster/own_address.hpp"

#include <arpa/inet.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

#include "transport/address.hpp"

namespace tessera::cluster {

using base::ErrorCode;

namespace {

constexpr base::Milliseconds kResolvePatience{4000};

std::string host_text(const sockaddr_storage& address) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address.ss_family == AF_INET) {
    inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in&>(address).sin_addr, text, sizeof text);
    return text;
  }
  inet_ntop(AF_INET6, &reinterpret_cast<const sockaddr_in6&>(address).sin6_addr, text, sizeof text);
  return fmt::format("[{}]", text);
}

}  // namespace

base::Result<std::string> own_address_towards(const std::string& peer) {
  TESSERA_ASSIGN(const auto named, transport::parse_address(peer));
  TESSERA_ASSIGN(const auto address, transport::resolve(named, base::Deadline::after(kResolvePatience)));
  addrinfo hints{}, *found = nullptr;
  hints.ai_flags = AI_NUMERICHOST;
  hints.ai_socktype = SOCK_DGRAM;
  if (getaddrinfo(address.host.c_str(), address.port.c_str(), &hints, &found) != 0)
    return base::error(ErrorCode::kIo, "{}: not an address packets can be sent to", peer);
  // Connecting a datagram socket sends nothing; it only makes the kernel choose a route.
  const int socket_number = socket(found->ai_family, SOCK_DGRAM, 0);
  sockaddr_storage own{};
  socklen_t size = sizeof own;
  const bool ok = socket_number >= 0 && ::connect(socket_number, found->ai_addr, found->ai_addrlen) == 0 &&
                  getsockname(socket_number, reinterpret_cast<sockaddr*>(&own), &size) == 0;
  const int why = errno;
  if (socket_number >= 0) ::close(socket_number);
  freeaddrinfo(found);
  if (!ok) return base::error(ErrorCode::kIo, "{}: no way to get there ({}); check the network", peer, std::strerror(why));
  return fmt::format("tcp://{}:*", host_text(own));
}

}  // namespace tessera::cluster
