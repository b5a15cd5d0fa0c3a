// The seed of a test run's random choices: TESSERA_SEED from the environment, else always the same number.
#pragma once

#include <cstdint>

namespace tessera::testing {

inline constexpr std::uint64_t kDefaultSeed = 20180914;

// The test program prints it at start; a test that draws from it CAPTUREs it, so a failure can be repeated.
std::uint64_t seed();

}  // namespace tessera::testing
