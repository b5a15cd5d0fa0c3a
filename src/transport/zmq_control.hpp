// The control channel over ZeroMQ: ROUTER (server) and DEALER (client).
//
// A client's first message is one frame: "TSCTRL1" | name. Every other message, both ways: text frame, blob frames.
#pragma once

#include "transport/control.hpp"

namespace tessera::transport {

// Binds within 5 s or fails, naming the address and what to do. `bind` as in address.hpp.
[[nodiscard]] base::Result<std::unique_ptr<ControlServer>> listen_control(const std::string& bind, const ControlOptions& options = {});

// Retries until the deadline while nobody listens there. `name` is how the server sees this client.
[[nodiscard]] base::Result<std::unique_ptr<ControlClient>> connect_control(const std::string& address, const std::string& name,
                                                                           base::Deadline deadline, const ControlOptions& options = {});

}  // namespace tessera::transport
