// Is a peer alive? The heartbeat's arithmetic, without sockets or clocks: any traffic counts as a sign of life, silence
// asks for a ping, longer silence means gone. The owner sends the pings and passes the time in.
#pragma once

#include "base/clock.hpp"

namespace tessera::transport {

struct LivenessTimes {
  base::Milliseconds ping_after{500};   // of silence; also the time between pings
  base::Milliseconds gone_after{2500};  // of silence
};

enum class Sign { kAlive, kPing, kGone };

class Liveness {
 public:
  Liveness(const LivenessTimes& times, base::TimePoint now) : times_(times), heard_(now), pinged_(now) {}

  void heard(base::TimePoint now) {
    if (now > heard_) heard_ = now;
  }

  // kPing is returned at most once per `ping_after`: send one. kGone stays until something is heard.
  Sign look(base::TimePoint now) {
    if (now - heard_ >= times_.gone_after) return Sign::kGone;
    if (now - heard_ < times_.ping_after || now - pinged_ < times_.ping_after) return Sign::kAlive;
    pinged_ = now;
    return Sign::kPing;
  }

  // When look() is due again, if nothing is heard meanwhile.
  base::TimePoint next_look() const { return std::min(heard_ + times_.gone_after, std::max(heard_, pinged_) + times_.ping_after); }

  base::Milliseconds silence(base::TimePoint now) const { return std::chrono::duration_cast<base::Milliseconds>(now - heard_); }

 private:
  LivenessTimes times_;
  base::TimePoint heard_, pinged_;
};

}  // namespace tessera::transport
