#include "sim/profiles.hpp"

#include <algorithm>

namespace tessera::sim {

namespace {

constexpr double kMegabit = 1e6 / 8;
constexpr double kGigabyte = 1024.0 * 1024 * 1024;

// Assumed for one core of a desktop or server machine; a second process costs what a message over a local socket costs.
constexpr double kCoreMultiplyAdds = 20e9;
constexpr double kCoreMemoryBytes = 5e9;
constexpr double kLocalLinkBytes = 1e9;
constexpr double kLocalMessageSeconds = 60e-6;

}  // namespace

const std::vector<NamedProfile>& named_profiles() {
  static const std::vector<NamedProfile> profiles = {
      {"pi3", "Raspberry Pi 3B, 94 Mbit/s", {9e9, 2e9, 94 * kMegabit, 300e-6, 1 * kGigabyte, 20e-9}},
      {"pi3+", "Raspberry Pi 3B+, 224 Mbit/s", {10e9, 2e9, 224 * kMegabit, 300e-6, 1 * kGigabyte, 20e-9}},
      {"pi4", "Raspberry Pi 4, 900 Mbit/s", {14e9, 4e9, 900 * kMegabit, 200e-6, 2 * kGigabyte, 5e-9}},
      {"pi5", "Raspberry Pi 5, 900 Mbit/s", {37e9, 9e9, 900 * kMegabit, 150e-6, 4 * kGigabyte, 2e-9}},
  };
  return profiles;
}

base::Result<DeviceProfile> named_profile(std::string_view name) {
  std::string known;
  for (const NamedProfile& profile : named_profiles()) {
    if (profile.name == name) return profile.device;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", profile.name);
  }
  return base::error(base::ErrorCode::kInvalidArgument, "there is no profile '{}'; known ones are {} and local", name, known);
}

DeviceProfile same_machine_profile(int cores, int devices) {
  const double share = static_cast<double>(std::max(1, cores)) / std::max(1, devices);
  return {kCoreMultiplyAdds * share, kCoreMemoryBytes * share, kLocalLinkBytes, kLocalMessageSeconds, 0, 0};
}

}  // namespace tessera::sim
