// Participants connected each to each, in one process, over any transport.
#pragma once

#include "base/clock.hpp"
#include "transport/endpoint.hpp"
#include "transport/token.hpp"
#include "transport/zmq_endpoint.hpp"

#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace tessera::testing {

enum class Medium { kInproc, kIpc, kTcp, kShared };  // kShared: ipc with shared memory
const char* medium_name(Medium medium);

struct MeshLimits {
  std::size_t max_message_bytes = std::size_t{1} << 30;
  std::size_t max_queued_bytes = std::size_t{1} << 30;
  int receive_high_water_mark = 1000;
  int linger_ms = 1000;
};

using Mesh = std::vector<std::unique_ptr<transport::Endpoint>>;

// The address to bind for a fresh listener.
std::string any_address(Medium medium);

// A zmq endpoint's options for a test: a fresh port or path.
transport::ZmqOptions zmq_options(Medium medium, int self, const transport::SessionToken& token, const MeshLimits& limits = {});

// Participants 0 .. count-1. Throws std::runtime_error with the transport's message if that fails.
Mesh unconnected_mesh(Medium medium, int count, const MeshLimits& limits = {});
Mesh connected_mesh(Medium medium, int count, const MeshLimits& limits = {});

inline base::Deadline in_ms(int milliseconds) { return base::Deadline::after(base::Milliseconds(milliseconds)); }

// Longer than anything in a test takes; reached only when something is broken.
inline base::Deadline soon() { return in_ms(20'000); }

// Bytes that follow from `seed`, and whether a frame holds exactly those.
transport::Frame pattern(std::size_t bytes, std::uint64_t seed);
bool has_pattern(const transport::Frame& frame, std::size_t bytes, std::uint64_t seed);

// The loss that receive() reports, messages before it aside. Throws when there is none.
base::Error loss_at(transport::Endpoint& endpoint);

transport::Frame text_frame(const std::string& text);
std::string frame_text(const transport::Frame& frame);

// Calls body(endpoint) for every endpoint in a thread of its own and joins them.
template <typename Body>
void run_all(Mesh& mesh, const Body& body) {
  std::vector<std::thread> threads;
  for (auto& endpoint : mesh) threads.emplace_back([&body, &endpoint] { body(*endpoint); });
  for (auto& thread : threads) thread.join();
}

}  // namespace tessera::testing
