// Who takes part, who is late and who is gone: a pure state machine. It is told what happened and what time it is, and never looks at
// a clock, a socket or a thread itself.
//
//            join            ready          silent, or its step takes too long
//   (none) ───────▶ joining ───────▶ ready ─────────────────────────────────▶ suspect
//                      │               ▲  │                                     │  │
//                      │               └──┼──────── heard, step done ───────────┘  │
//                      ▼ too late         ▼ lost                                   ▼ for longer, or lost
//                     gone ◀──────────────┴──────────────────────────────────────gone ──▶ join again, when its time away is over
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/result.hpp"

namespace tessera::cluster {

enum class MemberState { kJoining, kReady, kSuspect, kGone };

struct MembershipLimits {
  base::Milliseconds suspect_after{2000}, gone_after{5000};  // of silence; any traffic ends it
  base::Milliseconds join_patience{30000};                   // from join() to ready()
  // A step is late beyond the larger of `least_step` and `late_factor` times the member's usual time for it, and lost at
  // `lost_factor` times that. One never measured may take `unknown_step`.
  base::Milliseconds least_step{1000}, unknown_step{60000};
  double late_factor = 8, lost_factor = 4;
  // A longer gap between two calls of tick() is the caller's own absence: it was stopped, swapped out or asleep, and nobody
  // else was silent. The same for a wall clock that ran on while the steady one stood (suspend).
  base::Milliseconds own_absence{700};
  // The second time a member is lost it is set aside for first_aside, then for twice as long each time, up to longest_aside;
  // being good for forgiven_after has it start anew.
  base::Milliseconds first_aside{1000}, longest_aside{300000}, forgiven_after{600000};

  [[nodiscard]] base::Status validate() const;
};

// What tick() and the events have changed, in order.
struct MembershipChange {
  std::string key;
  MemberState from, to;
  std::string reason;  // one clause, for people
};

// Who is being waited for.
struct MembershipWait {
  std::string key, step;
  double seconds = 0;
  std::optional<double> usual_seconds;  // nothing before the first time
  double silent_seconds = 0;            // since it was heard last
};

// Members are known by a key that outlives their processes: the public key, or the address. Times must not go back. Not thread-safe.
class Membership {
 public:
  // `now` and `wall` (seconds since any epoch): when the caller's timer was started.
  Membership(const MembershipLimits& limits, base::TimePoint now, double wall) : limits_(limits), ticked_(now), wall_(wall) {}

  // A new member, one that was gone, or one whose process was started again before anybody noticed (the old one is gone then, without
  // blame). An error, with the time left, while it is set aside.
  [[nodiscard]] base::Status join(const std::string& key, base::TimePoint now);
  void ready(const std::string& key, base::TimePoint now);

  // Any traffic: beats, answers, data. Says nothing about progress.
  void heard(const std::string& key, base::TimePoint now);
  // It closed its connection, said that it failed, or sent what cannot be.
  void lost(const std::string& key, const std::string& reason, base::TimePoint now);

  // The caller waits for it to do `step`, and it is done. Abandoned steps teach nothing.
  void step_started(const std::string& key, const std::string& step, base::TimePoint now);
  void step_done(const std::string& key, base::TimePoint now);
  void step_abandoned(const std::string& key);

  // To be called every few hundred milliseconds, and before anybody is judged. Returns and forgets the changes since the last call.
  std::vector<MembershipChange> tick(base::TimePoint now, double wall);

  std::optional<MemberState> state(const std::string& key) const;  // nothing for a stranger
  std::vector<std::string> in(MemberState state) const;            // in the keys' order
  std::vector<MembershipWait> waits(base::TimePoint now) const;    // the longest first
  double own_absence_seconds() const { return absent_seconds_; }   // in all

 private:
  struct Member {
    MemberState state = MemberState::kJoining;
    base::TimePoint heard, since;  // since: of the state
    std::string step;              // that is waited for; "" for none
    base::TimePoint step_start;
    std::map<std::string, double> usual;  // seconds, by step
    int losses = 0;
    base::TimePoint aside_until;
  };

  void change(const std::string& key, Member& member, MemberState to, base::TimePoint now, const std::string& reason);
  void lose(const std::string& key, Member& member, base::TimePoint now, const std::string& reason, bool blamed);
  void judge(const std::string& key, Member& member, base::TimePoint now);
  double late_after(const Member& member) const;  // seconds of the current step
  void forgive_absence(base::TimePoint now, double wall);

  MembershipLimits limits_;
  base::TimePoint ticked_;
  double wall_, absent_seconds_ = 0;
  std::map<std::string, Member> members_;
  std::vector<MembershipChange> changes_;
};

}  // namespace tessera::cluster
