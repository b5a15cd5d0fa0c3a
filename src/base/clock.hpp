// Time for waits and measurements: always the steady clock, never the wall clock.
#pragma once

#include <algorithm>
#include <chrono>

namespace tessera::base {

using Clock = std::chrono::steady_clock;
using TimePoint = Clock::time_point;
using Milliseconds = std::chrono::milliseconds;

// A moment after which a wait gives up. Every wait in the system takes one.
class Deadline {
 public:
  explicit Deadline(TimePoint when) : when_(when) {}
  static Deadline after(Clock::duration span) { return Deadline(Clock::now() + span); }

  bool passed() const { return Clock::now() >= when_; }
  TimePoint when() const { return when_; }

  // Time left, never negative, rounded up to whole milliseconds.
  Milliseconds remaining() const { return std::max(Milliseconds(0), std::chrono::ceil<Milliseconds>(when_ - Clock::now())); }

 private:
  TimePoint when_;
};

inline double seconds_between(TimePoint from, TimePoint to) { return std::chrono::duration<double>(to - from).count(); }

}  // namespace tessera::base
