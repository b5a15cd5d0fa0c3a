// What one device did since the previous report, as plain numbers.
#pragma once

#include <cstdint>
#include <string>

namespace tessera::observe {

struct DeviceReport {
  std::string name;            // as people call it: "coordinator", "pi3", "local:2"
  double busy_seconds = 0;     // computing
  double waiting_seconds = 0;  // waiting for other devices or for data
  std::uint64_t sent_bytes = 0;
  std::uint64_t received_bytes = 0;
  std::uint64_t memory_bytes = 0;       // in use now
  std::uint64_t memory_peak_bytes = 0;  // most in use so far
  bool alive = true;
};

}  // namespace tessera::observe
