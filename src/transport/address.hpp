// Addresses of listeners: "tcp://host:port", "ipc://path", "inproc://name".
#pragma once

#include "base/clock.hpp"
#include "base/result.hpp"

#include <string>
#include <string_view>

namespace tessera::transport {

enum class Scheme { kTcp, kIpc, kInproc };

struct Address {
  Scheme scheme = Scheme::kTcp;
  std::string host;  // tcp: name, IPv4, IPv6 without brackets, or "*"
  std::string port;  // tcp: "1".."65535", or "*" for any free one (also written 0)
  std::string path;  // ipc, inproc: "*" asks ipc for a fresh path
};

// Errors (kInvalidArgument) name the text and the accepted forms.
[[nodiscard]] base::Result<Address> parse_address(std::string_view text);
std::string to_string(const Address& address);

// Whether listening there is reachable from this machine only: ipc, inproc, and tcp on 127.0.0.0/8, ::1 or localhost.
// Wildcards, names of interfaces and all other hosts are not. A caller refuses those unless keys (CURVE) or -insecure
// are given.
bool is_local_bind(const Address& address);
bool is_local_bind(std::string_view text);  // false for text that is not an address

// Replaces a tcp host name by its IP address (IPv4 first); other addresses pass unchanged. Waits for name servers no
// longer than the deadline. Errors are kIo.
[[nodiscard]] base::Result<Address> resolve(const Address& address, base::Deadline deadline);

// `address` with its host replaced, for telling others how to reach a listener bound to a wildcard.
[[nodiscard]] base::Result<std::string> with_host(std::string_view address, std::string_view host);

}  // namespace tessera::transport
