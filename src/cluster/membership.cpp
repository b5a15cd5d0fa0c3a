#include "cluster/membership.hpp"

#include <algorithm>
#include <cmath>

namespace tessera::cluster {

using base::seconds_between;
using enum MemberState;

namespace {

constexpr double kNewestWeight = 0.2;  // of a step's newest time in its usual one

double seconds(base::Milliseconds time) { return std::chrono::duration<double>(time).count(); }

base::TimePoint later(base::TimePoint time, double by) {
  return time + std::chrono::duration_cast<base::Clock::duration>(std::chrono::duration<double>(by));
}

}  // namespace

base::Status MembershipLimits::validate() const {
  const auto refuse = [](const char* what) { return base::error(base::ErrorCode::kInvalidArgument, "bad membership limit: {}", what); };
  if (suspect_after.count() < 1 || gone_after <= suspect_after) return refuse("gone_after must be longer than suspect_after");
  if (own_absence.count() < 1 || own_absence >= suspect_after) return refuse("own_absence must be shorter than suspect_after");
  if (!(late_factor > 1) || !(lost_factor > 1)) return refuse("late_factor and lost_factor must be more than 1");
  if (least_step.count() < 1 || unknown_step < least_step) return refuse("unknown_step must not be shorter than least_step");
  if (first_aside.count() < 1 || longest_aside < first_aside) return refuse("longest_aside must not be shorter than first_aside");
  return {};
}

void Membership::change(const std::string& key, Member& member, MemberState to, base::TimePoint now, const std::string& reason) {
  changes_.push_back({key, member.state, to, reason});
  member.state = to;
  member.since = now;
}

void Membership::lose(const std::string& key, Member& member, base::TimePoint now, const std::string& reason, bool blamed) {
  if (member.state == kGone) return;
  if (member.losses > 0 && member.state != kJoining && now - member.since >= limits_.forgiven_after) member.losses = 0;
  member.step.clear();
  change(key, member, kGone, now, reason);
  if (!blamed) return;
  ++member.losses;
  member.aside_until = now;
  if (member.losses > 1)
    member.aside_until = later(
        now, std::min(seconds(limits_.longest_aside), seconds(limits_.first_aside) * std::ldexp(1.0, std::min(member.losses - 2, 30))));
}

base::Status Membership::join(const std::string& key, base::TimePoint now) {
  Member& member = members_[key];
  if (now < member.aside_until)
    return base::error(base::ErrorCode::kInvalidArgument, "{} was lost {} times and is set aside for another {:.0f} s", key, member.losses,
                       std::ceil(seconds_between(now, member.aside_until)));
  if (member.heard != base::TimePoint{}) lose(key, member, now, "it was started again", false);
  change(key, member, kJoining, now, "it joins");
  member.heard = now;
  member.usual.clear();  // another process, maybe on another machine
  return {};
}

void Membership::ready(const std::string& key, base::TimePoint now) {
  const auto found = members_.find(key);
  if (found == members_.end() || found->second.state != kJoining) return;
  found->second.heard = now;
  change(key, found->second, kReady, now, "it is ready");
}

void Membership::heard(const std::string& key, base::TimePoint now) {
  const auto found = members_.find(key);
  if (found == members_.end() || found->second.state == kGone) return;
  found->second.heard = std::max(found->second.heard, now);
}

void Membership::lost(const std::string& key, const std::string& reason, base::TimePoint now) {
  if (const auto found = members_.find(key); found != members_.end()) lose(key, found->second, now, reason, true);
}

void Membership::step_started(const std::string& key, const std::string& step, base::TimePoint now) {
  const auto found = members_.find(key);
  if (found == members_.end() || found->second.state == kGone) return;
  found->second.step = step;
  found->second.step_start = now;
}

void Membership::step_done(const std::string& key, base::TimePoint now) {
  const auto found = members_.find(key);
  if (found == members_.end() || found->second.step.empty()) return;
  Member& member = found->second;
  member.heard = std::max(member.heard, now);
  const double took = seconds_between(member.step_start, now);
  const auto [usual, first] = member.usual.try_emplace(member.step, took);
  if (!first) usual->second += kNewestWeight * (took - usual->second);
  member.step.clear();
}

void Membership::step_abandoned(const std::string& key) {
  if (const auto found = members_.find(key); found != members_.end()) found->second.step.clear();
}

double Membership::late_after(const Member& member) const {
  const auto usual = member.usual.find(member.step);
  if (usual == member.usual.end()) return seconds(limits_.unknown_step);
  return std::max(seconds(limits_.least_step), limits_.late_factor * usual->second);
}

void Membership::judge(const std::string& key, Member& member, base::TimePoint now) {
  if (member.state == kGone) return;
  const double silent = seconds_between(member.heard, now);
  if (silent >= seconds(limits_.gone_after)) return lose(key, member, now, fmt::format("it has been silent for {:.1f} s", silent), true);
  if (member.state == kJoining) {
    if (now - member.since >= limits_.join_patience)
      lose(key, member, now, fmt::format("it did not get ready within {:.0f} s", seconds(limits_.join_patience)), true);
    return;
  }
  const double waited = member.step.empty() ? 0 : seconds_between(member.step_start, now), late = late_after(member);
  if (waited >= limits_.lost_factor * late)
    return lose(key, member, now, fmt::format("it answers, but its '{}' takes {:.1f} s so far", member.step, waited), true);
  const bool is_silent = silent >= seconds(limits_.suspect_after), is_late = waited >= late;
  if (member.state == kReady && is_silent) change(key, member, kSuspect, now, fmt::format("it has been silent for {:.1f} s", silent));
  if (member.state == kReady && is_late)
    change(key, member, kSuspect, now, fmt::format("its '{}' takes {:.1f} s so far, later than {:.1f} s", member.step, waited, late));
  if (member.state == kSuspect && !is_silent && !is_late) change(key, member, kReady, now, "it is back");
}

// Moves everybody's times by what the caller was away itself, so that nothing of it counts.
void Membership::forgive_absence(base::TimePoint now, double wall) {
  const double gap = seconds_between(ticked_, now), slept = wall - wall_ - gap;
  const double absence = seconds(limits_.own_absence);
  if (gap > absence) {
    absent_seconds_ += gap;
    for (auto& [key, member] : members_) {
      member.heard = std::min(now, later(std::max(member.heard, ticked_ - limits_.suspect_after), gap));
      member.step_start = std::min(now, later(member.step_start, gap));
      member.since = std::min(now, later(member.since, gap));
    }
  }
  if (slept > absence) {
    absent_seconds_ += slept;
    for (auto& [key, member] : members_) member.heard = now;
  }
  ticked_ = now;
  wall_ = wall;
}

std::vector<MembershipChange> Membership::tick(base::TimePoint now, double wall) {
  forgive_absence(now, wall);
  for (auto& [key, member] : members_) judge(key, member, now);
  return std::exchange(changes_, {});
}

std::optional<MemberState> Membership::state(const std::string& key) const {
  const auto found = members_.find(key);
  return found == members_.end() ? std::nullopt : std::optional(found->second.state);
}

std::vector<std::string> Membership::in(MemberState state) const {
  std::vector<std::string> keys;
  for (const auto& [key, member] : members_)
    if (member.state == state) keys.push_back(key);
  return keys;
}

std::vector<MembershipWait> Membership::waits(base::TimePoint now) const {
  std::vector<MembershipWait> waits;
  for (const auto& [key, member] : members_) {
    if (member.step.empty()) continue;
    const auto usual = member.usual.find(member.step);
    waits.push_back({key, member.step, seconds_between(member.step_start, now),
                     usual == member.usual.end() ? std::nullopt : std::optional(usual->second), seconds_between(member.heard, now)});
  }
  std::stable_sort(waits.begin(), waits.end(), [](const auto& one, const auto& other) { return one.seconds > other.seconds; });
  return waits;
}

}  // namespace tessera::cluster
