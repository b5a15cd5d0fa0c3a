#include "tests/support/transport_mesh.hpp"

#include "transport/inproc.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <stdexcept>

namespace tessera::testing {

using transport::Frame;

namespace {

// A cheap generator with a full period: equal bytes at equal places only for equal seeds.
std::uint64_t next(std::uint64_t& state) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return state >> 33;
}

}  // namespace

const char* medium_name(Medium medium) {
  switch (medium) {
    case Medium::kInproc:
      return "inproc";
    case Medium::kIpc:
      return "ipc";
    case Medium::kTcp:
      return "tcp";
    case Medium::kShared:
      return "shared memory";
  }
  return "?";
}

std::string any_address(Medium medium) {
  if (medium == Medium::kTcp) return "tcp://127.0.0.1:*";
  static std::atomic<int> count = 0;  // abstract sockets: "ipc://*" may leave a directory behind
  return fmt::format("ipc://@tessera-test-{}-{}", getpid(), ++count);
}

transport::ZmqOptions zmq_options(Medium medium, int self, const transport::SessionToken& token, const MeshLimits& limits) {
  transport::ZmqOptions options;
  options.self = self;
  options.token = token;
  options.bind = any_address(medium);
  options.max_message_bytes = limits.max_message_bytes;
  options.max_queued_bytes = limits.max_queued_bytes;
  options.receive_high_water_mark = limits.receive_high_water_mark;
  options.linger_ms = limits.linger_ms;
  return options;
}

Mesh unconnected_mesh(Medium medium, int count, const MeshLimits& limits) {
  if (medium == Medium::kInproc) {
    transport::InprocOptions options;
    options.max_message_bytes = limits.max_message_bytes;
    options.max_queued_bytes = limits.max_queued_bytes;
    return transport::make_inproc_endpoints(count, options);
  }
  const auto token = transport::make_session_token();
  Mesh mesh;
  std::shared_ptr<transport::SharedMemory> memory;
  if (medium == Medium::kShared) {
    auto created = transport::SharedMemory::create(count);
    if (!created) throw std::runtime_error(created.error().message);
    memory = std::move(*created);
  }
  for (int participant = 0; participant < count; ++participant) {
    auto options = zmq_options(medium, participant, token, limits);
    options.shared_memory = memory;
    auto endpoint = transport::make_zmq_endpoint(options);
    if (!endpoint) throw std::runtime_error(endpoint.error().message);
    mesh.push_back(std::move(*endpoint));
  }
  return mesh;
}

Mesh connected_mesh(Medium medium, int count, const MeshLimits& limits) {
  Mesh mesh = unconnected_mesh(medium, count, limits);
  for (auto& from : mesh) {
    for (auto& to : mesh) {
      if (from == to) continue;
      const auto connected = from->connect(to->self(), to->address().value(), soon());
      if (!connected) throw std::runtime_error(connected.error().message);
    }
  }
  return mesh;
}

Frame pattern(std::size_t bytes, std::uint64_t seed) {
  Frame frame = Frame::allocate(bytes);
  for (std::size_t at = 0; at < bytes; at += 4) {
    const auto word = static_cast<std::uint32_t>(next(seed));
    std::memcpy(frame.data() + at, &word, std::min<std::size_t>(4, bytes - at));
  }
  return frame;
}

bool has_pattern(const Frame& frame, std::size_t bytes, std::uint64_t seed) {
  if (frame.size() != bytes) return false;
  const Frame expected = pattern(bytes, seed);
  return bytes == 0 || std::memcmp(frame.data(), expected.data(), bytes) == 0;
}

base::Error loss_at(transport::Endpoint& endpoint) {
  const auto deadline = soon();
  while (!deadline.passed()) {
    auto received = endpoint.receive(deadline);
    if (!received) return received.error();
  }
  throw std::runtime_error("nobody was lost");
}

Frame text_frame(const std::string& text) { return Frame::copy_of(std::as_bytes(std::span(text))); }

std::string frame_text(const Frame& frame) { return {reinterpret_cast<const char*>(frame.data()), frame.size()}; }

}  // namespace tessera::testing
