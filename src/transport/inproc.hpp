// Endpoints of one process: queues in memory. For tests and for running several devices in one process.
#pragma once

#include "transport/endpoint.hpp"

#include <memory>
#include <vector>

namespace tessera::transport {

struct InprocOptions {
  std::size_t max_message_bytes = std::size_t{1} << 30;
  std::size_t max_queued_bytes = std::size_t{1} << 30;  // per (sender, receiver, lane)
};

// Endpoints with the given participant numbers and addresses "inproc://<number>", known to each other only.
std::vector<std::unique_ptr<Endpoint>> make_inproc_endpoints(const std::vector<int>& participants, const InprocOptions& options = {});
// Participants 0 .. count-1.
std::vector<std::unique_ptr<Endpoint>> make_inproc_endpoints(int count, const InprocOptions& options = {});

}  // namespace tessera::transport
