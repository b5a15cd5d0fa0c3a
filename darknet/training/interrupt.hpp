// Ctrl-C, a polite kill and a terminal that closes: noted, so that an iteration can end and weights can be saved.
#pragma once

namespace tessera::darknet {

// While one lives, SIGINT, SIGTERM and SIGHUP are noted instead of ending the process; the second one, of whichever kind, ends it at once.
// One at a time.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  static bool interrupted();
};

}  // namespace tessera::darknet
