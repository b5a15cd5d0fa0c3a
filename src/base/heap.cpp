#include "base/heap.hpp"

#include <malloc.h>

namespace tessera::base {

void return_freed_memory() {
  constexpr int kBytes = 1 << 20;
  mallopt(M_ARENA_MAX, 1);
  // Setting them also keeps glibc from raising them as it goes.
  mallopt(M_MMAP_THRESHOLD, 4 * kBytes);  // messages are smaller; their pages need not be made anew each time
  mallopt(M_TRIM_THRESHOLD, 8 * kBytes);  // less would cost more system calls and save nothing at the peak
}

}  // namespace tessera::base
