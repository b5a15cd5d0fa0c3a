// The C library's heap, for whole programs.
#pragma once

namespace tessera::base {

inline constexpr int kMebibyte = 1 << 20;

// For main(): has malloc() give memory back to the system as soon as it is free. Messages and images come in bursts on several
// threads; left to itself glibc keeps what the largest burst of each thread needed (30 MB of a training process).
// `reused`: smaller blocks stay with the program, whose pages are then not made anew each time.
void return_freed_memory(int reused = kMebibyte);

// Gives back what is free between blocks in use, too. For moments after which memory is used in another way: it takes
// milliseconds.
void trim_heap();

}  // namespace tessera::base
