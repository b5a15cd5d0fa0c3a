// Which of this machine's addresses others can reach.
#pragma once

#include <string>

#include "base/result.hpp"

namespace tessera::cluster {

// "tcp://<address>:*" of the interface through which packets to `peer` ("tcp://host:port") leave this machine. Never
// the own host name, which Debian maps to 127.0.1.1. Nothing is sent.
base::Result<std::string> own_address_towards(const std::string& peer);

}  // namespace tessera::cluster
