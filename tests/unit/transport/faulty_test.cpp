#include <doctest/doctest.h>

#include "tests/support/seed.hpp"
#include "tests/support/transport_mesh.hpp"
#include "transport/faulty.hpp"
#include "transport/inproc.hpp"

#include <bit>

namespace tessera::transport {
namespace {

using namespace testing;

struct Pair {
  std::unique_ptr<FaultyEndpoint> from;
  std::unique_ptr<Endpoint> to;
};

// Participant 0 sends to 1 through the rules.
Pair faulty_pair(std::vector<FaultRule> rules, std::uint64_t seed = 1) {
  Mesh mesh = connected_mesh(Medium::kInproc, 2);
  return {make_faulty_endpoint(std::move(mesh[0]), std::move(rules), seed), std::move(mesh[1])};
}

FaultRule rule(Fault fault) {
  FaultRule made;
  made.fault = fault;
  return made;
}

std::uint64_t count(const Pair& pair, Fault fault) { return pair.from->fault_counts()[static_cast<std::size_t>(fault)]; }

void send(Pair& pair, const std::string& header, std::size_t payload_bytes = 64, Lane lane = Lane::kBulk) {
  REQUIRE(pair.from->send(1, lane, text_frame(header), pattern(payload_bytes, 1), soon()));
}

// Everything that is there: "header/payload bytes".
std::vector<std::string> arrived(Pair& pair) {
  std::vector<std::string> all;
  while (auto message = pair.to->receive(in_ms(0)).value()) {
    all.push_back(frame_text(message->header) + "/" + std::to_string(message->payload.size()));
  }
  return all;
}

int different_bits(const Frame& a, const Frame& b) {
  int bits = 0;
  for (std::size_t i = 0; i < a.size(); ++i) bits += std::popcount(std::to_integer<unsigned>(a.data()[i] ^ b.data()[i]));
  return bits;
}

}  // namespace

TEST_CASE("faulty: without rules everything passes") {
  Pair pair = faulty_pair({});
  for (const char* header : {"a", "b", "c"}) send(pair, header);
  CHECK(arrived(pair) == std::vector<std::string>{"a/64", "b/64", "c/64"});
  CHECK(pair.from->fault_counts() == FaultCounts{});
}

TEST_CASE("faulty: drop and duplicate hit exactly the messages of the rule") {
  FaultRule drop = rule(Fault::kDrop);
  drop.first_message = 1;
  drop.last_message = 2;
  FaultRule twice = rule(Fault::kDuplicate);
  twice.lane = Lane::kUrgent;
  FaultRule other_peer = rule(Fault::kDrop);
  other_peer.peer = 7;
  Pair pair = faulty_pair({drop, twice, other_peer});
  for (const char* header : {"0", "1", "2", "3"}) send(pair, header);
  send(pair, "4", 64, Lane::kUrgent);
  CHECK(arrived(pair) == std::vector<std::string>{"4/64", "4/64", "0/64", "3/64"});
  CHECK(count(pair, Fault::kDrop) == 2);
  CHECK(count(pair, Fault::kDuplicate) == 1);
}

TEST_CASE("faulty: corrupt flips one bit, truncate shortens one frame") {
  Pair corrupting = faulty_pair({rule(Fault::kCorrupt)});
  Pair truncating = faulty_pair({rule(Fault::kTruncate)});
  int headers_hit = 0, payloads_hit = 0;
  for (int i = 0; i < 40; ++i) {
    send(corrupting, "header");
    const auto damaged = corrupting.to->receive(soon()).value().value();
    const int in_header = different_bits(damaged.header, text_frame("header"));
    const int in_payload = different_bits(damaged.payload, pattern(64, 1));
    CHECK(in_header + in_payload == 1);
    CHECK(damaged.payload.size() == 64);
    headers_hit += in_header;
    payloads_hit += in_payload;

    send(truncating, "header");
    const auto cut = truncating.to->receive(soon()).value().value();
    CHECK((cut.header.size() < 6) != (cut.payload.size() < 64));
  }
  CHECK(headers_hit > 0);
  CHECK(payloads_hit > 0);
  send(corrupting, "", 0);
  CHECK(arrived(corrupting) == std::vector<std::string>{"/0"});
}

TEST_CASE("faulty: a delayed message comes later, keeps its order, and does not hold up the other lane") {
  FaultRule delay = rule(Fault::kDelay);
  delay.delay = base::Milliseconds(150);
  delay.last_message = 0;
  Pair pair = faulty_pair({delay});
  const auto start = base::Clock::now();
  send(pair, "late");
  send(pair, "behind it");
  send(pair, "other lane", 64, Lane::kUrgent);
  CHECK(arrived(pair) == std::vector<std::string>{"other lane/64"});
  // A receive() of the sender lets it go when it is due, and waits on until its own deadline.
  CHECK_FALSE(pair.from->receive(in_ms(300)).value().has_value());
  CHECK(base::seconds_between(start, base::Clock::now()) >= 0.3);
  CHECK(arrived(pair) == std::vector<std::string>{"late/64", "behind it/64"});
  send(pair, "on time");
  CHECK(arrived(pair) == std::vector<std::string>{"on time/64"});
}

TEST_CASE("faulty: the same seed gives the same faults, about as many as the probability says") {
  const std::uint64_t seed = testing::seed();
  CAPTURE(seed);
  const auto run = [](std::uint64_t run_seed) {
    FaultRule sometimes = rule(Fault::kDrop);
    sometimes.probability = 0.25;
    Pair pair = faulty_pair({sometimes}, run_seed);
    for (int i = 0; i < 2000; ++i) send(pair, std::to_string(i));
    return arrived(pair);
  };
  const auto first = run(seed);
  CHECK(first == run(seed));
  CHECK(first != run(seed + 1));
  CHECK(first.size() > 1350);
  CHECK(first.size() < 1650);
}

TEST_CASE("faulty: everything else is the endpoint's inside") {
  Mesh mesh = connected_mesh(Medium::kInproc, 2);
  auto faulty = make_faulty_endpoint(std::move(mesh[0]), {}, 1);
  CHECK(faulty->self() == 0);
  CHECK(faulty->address().value() == "inproc://0");
  CHECK(faulty->allocate(10).size() == 10);
  faulty->wake();
  CHECK_FALSE(faulty->receive(soon()).value().has_value());
  REQUIRE(mesh[1]->send(0, Lane::kBulk, text_frame("in"), {}, soon()));
  CHECK(frame_text(faulty->receive(soon()).value()->header) == "in");
  CHECK(faulty->stats().received_messages == 1);
  faulty->expel(1);
  CHECK(faulty->lost_peers() == std::vector<int>{1});
  faulty->close();
  CHECK(faulty->receive(soon()).error().code == base::ErrorCode::kAborted);
}

}  // namespace tessera::transport
