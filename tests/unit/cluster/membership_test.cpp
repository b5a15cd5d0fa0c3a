// Time is made up here: nothing waits.
#include <doctest/doctest.h>

#include <map>
#include <random>

#include "cluster/membership.hpp"
#include "tests/support/seed.hpp"

using namespace tessera::cluster;
using tessera::base::Milliseconds;
using tessera::base::TimePoint;
using enum MemberState;

namespace {

// A coordinator's timer of 100 ms, and members that beat every 500 ms unless they are silent.
struct World {
  World() {
    for (const char* key : {"a", "b"}) {
      REQUIRE(members.join(key, now));
      members.ready(key, now);
    }
  }

  void run(int milliseconds, const std::vector<std::string>& silent = {}) {
    for (int t = 0; t < milliseconds; t += 100) {
      now += Milliseconds(100);
      wall += 0.1;
      for (const char* key : {"a", "b"})
        if (std::find(silent.begin(), silent.end(), key) == silent.end()) members.heard(key, now);
      tick();
    }
  }

  void tick() {
    for (MembershipChange& change : members.tick(now, wall)) changes.push_back(std::move(change));
  }

  // Its own process stands still. Nobody's messages are read.
  void pause(int milliseconds) {
    now += Milliseconds(milliseconds);
    wall += milliseconds / 1000.0;
    tick();
  }

  TimePoint now{Milliseconds(1000000)};
  double wall = 5;
  Membership members{MembershipLimits{}, now, wall};
  std::vector<MembershipChange> changes;
};

}  // namespace

TEST_CASE("a silent member is a suspect, then gone; heard in between it is ready again") {
  World world;
  world.run(1900, {"b"});
  CHECK(world.members.state("b") == kReady);
  world.run(300, {"b"});
  CHECK(world.members.state("b") == kSuspect);
  world.run(2000);
  CHECK(world.members.state("b") == kReady);
  world.run(5100, {"b"});
  CHECK(world.members.state("b") == kGone);
  CHECK(world.changes.back().reason == "it has been silent for 5.0 s");
  CHECK(world.members.state("a") == kReady);
  CHECK(world.members.in(kReady) == std::vector<std::string>{"a"});
  world.run(3000);
  CHECK(world.members.state("b") == kGone);  // only join() brings it back
  CHECK_FALSE(world.members.state("c"));
}

TEST_CASE("one's own absence is nobody's silence, however long and often, asleep or stopped") {
  World world;
  for (int milliseconds : {2300, 5000, 15000, 600000, 2300, 2300}) {
    world.pause(milliseconds);
    world.run(300, {"a", "b"});  // they are heard a moment later only
    world.run(500);
  }
  world.wall += 3600;  // suspended: the steady clock stood
  world.run(300, {"a", "b"});
  world.run(500);
  CHECK(world.members.in(kReady).size() == 2);
  for (const MembershipChange& change : world.changes) CHECK(change.to != kSuspect);
  CHECK(world.members.own_absence_seconds() == doctest::Approx(3600 + 626.9).epsilon(0.001));
  // And it does not make anybody immortal.
  world.pause(10000);
  world.run(5100, {"b"});
  CHECK(world.members.state("b") == kGone);
}

TEST_CASE("slow is told from stuck: by its own usual time for the step") {
  World world;
  for (int i = 0; i < 5; ++i)
    for (const char* key : {"a", "b"}) {
      world.members.step_started(key, "run", world.now);
      world.run(key[0] == 'a' ? 200 : 1000);
      world.members.step_done(key, world.now);
    }
  world.members.step_started("a", "run", world.now);
  world.members.step_started("b", "run", world.now);
  world.run(3000);
  CHECK(world.members.state("a") == kSuspect);  // its usual 0.2 s
  CHECK(world.members.state("b") == kReady);    // its usual 1 s
  const auto waits = world.members.waits(world.now);
  REQUIRE(waits.size() == 2);
  CHECK(waits[0].step == "run");
  CHECK(waits[0].seconds == doctest::Approx(3));
  CHECK(*waits[1].usual_seconds == doctest::Approx(1));
  world.run(4000);
  CHECK(world.members.state("a") == kGone);  // it beats, but computes no more
  CHECK(world.changes.back().reason.find("it answers, but its 'run' takes") == 0);
  world.members.step_done("b", world.now);
  CHECK(world.members.waits(world.now).empty());
  world.members.step_started("b", "plan", world.now);  // never measured
  world.run(59000);
  CHECK(world.members.state("b") == kReady);
}

TEST_CASE("a restarted member is back at once; one that fails again and again is away for a growing time") {
  World world;
  world.members.lost("b", "it closed the connection", world.now);
  REQUIRE(world.members.join("b", world.now));
  world.members.ready("b", world.now);
  world.run(200);
  CHECK(world.members.state("b") == kReady);
  double before = 0;
  for (int i = 0; i < 12; ++i) {
    world.members.lost("b", "it closed the connection", world.now);
    const TimePoint lost = world.now;
    while (!world.members.join("b", world.now)) world.run(100);
    const double away = tessera::base::seconds_between(lost, world.now);
    CHECK(away >= before);
    CHECK(away <= 300.2);
    before = away;
    world.members.ready("b", world.now);
    world.run(200);
  }
  CHECK(before >= 300);
  world.run(700000);  // good for long
  world.members.lost("b", "it closed the connection", world.now);
  CHECK(world.members.join("b", world.now));
  // Started again before anybody noticed: no blame.
  world.members.ready("b", world.now);
  CHECK(world.members.join("b", world.now));
  CHECK(world.members.state("b") == kJoining);
  world.run(30100);
  CHECK(world.members.state("b") == kGone);
  CHECK(world.changes.back().reason == "it did not get ready within 30 s");
}

TEST_CASE("whatever happens in whatever order, nobody is waited for without end and no change skips a state") {
  std::mt19937_64 random(tessera::testing::seed());
  CAPTURE(tessera::testing::seed());
  World world;
  std::map<std::string, MemberState> states{{"a", kReady}, {"b", kReady}};
  for (int i = 0; i < 20000; ++i) {
    const std::string key = random() % 2 ? "a" : "b";
    switch (random() % 9) {
      case 0:
        static_cast<void>(world.members.join(key, world.now));
        break;
      case 1:
        world.members.ready(key, world.now);
        break;
      case 2:
        world.members.lost(key, "test", world.now);
        break;
      case 3:
        world.members.step_started(key, "run", world.now);
        break;
      case 4:
        world.members.step_done(key, world.now);
        break;
      case 5:
        world.members.step_abandoned(key);
        break;
      case 6:
        world.pause(static_cast<int>(random() % 20000));
        break;
      case 7:
        world.run(static_cast<int>(random() % 3000), {"a"});
        break;
      default:
        world.run(static_cast<int>(random() % 1000));
    }
  }
  world.tick();
  for (const MembershipChange& change : world.changes) {
    if (change.to == kJoining) states.try_emplace(change.key, change.from);
    const bool known = change.to == kGone || (change.to == kJoining && change.from != kReady && change.from != kSuspect) ||
                       (change.to == kReady && change.from != kGone) || (change.to == kSuspect && change.from == kReady);
    CHECK(known);
    CHECK_FALSE(change.reason.empty());
  }
  for (const char* key : {"a", "b"}) world.members.step_started(key, "run", world.now);
  world.run(1000000);
  for (const auto& wait : world.members.waits(world.now)) CHECK(wait.seconds < 241);
}
