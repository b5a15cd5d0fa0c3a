// Profiles to plan with before anything was measured.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "sim/simulator.hpp"

namespace tessera::sim {

struct NamedProfile {
  const char* name;
  const char* description;
  DeviceProfile device;
};

// Raspberry Pis: "pi3", "pi3+", "pi4", "pi5". Link speeds are measured ones of their Ethernet ports. Computing speeds and
// memory bandwidths are assumptions (a quarter to a half of what cores and memory could do at best), to be replaced by
// measurement; what they are good for is comparing plans.
const std::vector<NamedProfile>& named_profiles();
base::Result<DeviceProfile> named_profile(std::string_view name);

// One of `devices` processes that share this machine's `cores`; links are its memory.
DeviceProfile same_machine_profile(int cores, int devices);

}  // namespace tessera::sim
