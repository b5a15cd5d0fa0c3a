// Wraps any endpoint and damages what it sends, by rules and a seed. For fault tests.
#pragma once

#include "transport/endpoint.hpp"

#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <vector>

namespace tessera::transport {

enum class Fault : std::uint8_t {
  kDrop,       // the message is not sent
  kDelay,      // it is sent `delay` later; later messages of the same peer and lane wait behind it
  kDuplicate,  // it is sent twice
  kCorrupt,    // one random bit of header or payload is flipped
  kTruncate,   // header or payload loses a random number of bytes at its end (at least one)
};
inline constexpr int kFaults = 5;

// Applies to messages that match all given conditions; of several matching rules, all apply.
struct FaultRule {
  Fault fault = Fault::kDrop;
  double probability = 1.0;
  std::optional<int> peer;
  std::optional<Lane> lane;
  std::uint64_t first_message = 0;  // counted from 0 over all messages this endpoint sends
  std::uint64_t last_message = std::numeric_limits<std::uint64_t>::max();
  base::Milliseconds delay{0};
};

// Faults injected so far, indexed by Fault.
using FaultCounts = std::array<std::uint64_t, kFaults>;

class FaultyEndpoint : public Endpoint {
 public:
  virtual const FaultCounts& fault_counts() const = 0;
};

// Delayed messages leave during later calls of send() and receive(). The same seed, rules and calls give the same faults.
std::unique_ptr<FaultyEndpoint> make_faulty_endpoint(std::unique_ptr<Endpoint> inner, std::vector<FaultRule> rules, std::uint64_t seed);

}  // namespace tessera::transport
