#include "base/heap.hpp"

#include <malloc.h>

namespace tessera::base {

void return_freed_memory(int reused) {
  mallopt(M_ARENA_MAX, 1);
  // Setting them also keeps glibc from raising them as it goes.
  mallopt(M_MMAP_THRESHOLD, reused);
  mallopt(M_TRIM_THRESHOLD, 8 * kMebibyte);  // less would cost more system calls and save nothing at the peak
}

void trim_heap() { malloc_trim(0); }

}  // namespace tessera::base
