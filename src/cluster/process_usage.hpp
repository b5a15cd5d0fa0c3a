// Memory of this process, as the kernel counts it.
#pragma once

#include <cstdint>

namespace tessera::cluster {

std::uint64_t resident_bytes();
std::uint64_t peak_resident_bytes();
std::uint64_t physical_memory_bytes();

}  // namespace tessera::cluster
