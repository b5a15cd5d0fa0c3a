// What every transport must do, over all of them.
#include <doctest/doctest.h>

#include "tests/support/seed.hpp"
#include "tests/support/transport_mesh.hpp"

#include <atomic>
#include <cstring>
#include <map>
#include <random>
#include <set>

namespace tessera::transport {
namespace {

using namespace testing;
using base::ErrorCode;

template <Medium kMedium>
struct Over {
  static constexpr Medium medium = kMedium;
};
using Inproc = Over<Medium::kInproc>;
using Ipc = Over<Medium::kIpc>;
using Tcp = Over<Medium::kTcp>;
using Shared = Over<Medium::kShared>;

// The next message, which must come.
Incoming must_receive(Endpoint& endpoint) {
  auto received = endpoint.receive(soon());
  REQUIRE_MESSAGE(received, received.error().message);
  REQUIRE_MESSAGE(received->has_value(), "nothing arrived in time");
  return std::move(**received);
}

void must_send(Endpoint& endpoint, int peer, Lane lane, const std::string& header, Frame payload) {
  Frame own = endpoint.allocate(payload.size());
  if (!payload.empty()) std::memcpy(own.data(), payload.data(), payload.size());
  const auto sent = endpoint.send(peer, lane, text_frame(header), std::move(own), soon());
  REQUIRE_MESSAGE(sent, sent.error().message);
}

double milliseconds_since(base::TimePoint start) { return base::seconds_between(start, base::Clock::now()) * 1e3; }

}  // namespace

TEST_CASE_TEMPLATE("transport: messages of one peer and lane keep their order", T, Inproc, Ipc, Tcp, Shared) {
  Mesh mesh = connected_mesh(T::medium, 2);
  constexpr int kMessages = 2000;
  for (int i = 0; i < kMessages; ++i) {
    must_send(*mesh[0], 1, i % 3 == 0 ? Lane::kUrgent : Lane::kBulk, std::to_string(i), pattern(static_cast<std::size_t>(i % 50), 7));
  }
  std::map<Lane, int> last = {{Lane::kUrgent, -1}, {Lane::kBulk, -1}};
  for (int i = 0; i < kMessages; ++i) {
    const Incoming message = must_receive(*mesh[1]);
    const int number = std::stoi(frame_text(message.header));
    REQUIRE(message.peer == 0);
    REQUIRE(message.lane == (number % 3 == 0 ? Lane::kUrgent : Lane::kBulk));
    REQUIRE(number > last[message.lane]);
    REQUIRE(has_pattern(message.payload, static_cast<std::size_t>(number % 50), 7));
    last[message.lane] = number;
  }
  CHECK(mesh[1]->stats().received_messages == kMessages);
  CHECK(mesh[1]->stats().received_bytes == mesh[0]->stats().sent_bytes);
  CHECK(mesh[1]->stats().dropped_messages == 0);
}

TEST_CASE_TEMPLATE("transport: sizes around every limit of a buffer arrive whole and aligned", T, Inproc, Ipc, Tcp, Shared) {
  Mesh mesh = connected_mesh(T::medium, 2);
  const std::size_t sizes[] = {0, 1, 29, 30, 33, 34, 255, 256, 4096, 8191, 8192, 8193, 65'536, 1'000'001, 48'000'000};
  for (const std::size_t bytes : sizes) {
    CAPTURE(bytes);
    must_send(*mesh[0], 1, Lane::kBulk, "header", pattern(bytes, bytes));
    const Incoming message = must_receive(*mesh[1]);
    CHECK(frame_text(message.header) == "header");
    CHECK(has_pattern(message.payload, bytes, bytes));
    const std::size_t alignment = bytes <= 8192 ? kFrameAlignment : alignof(float);
    CHECK(reinterpret_cast<std::uintptr_t>(message.payload.data()) % alignment == 0);
  }
  CHECK(reinterpret_cast<std::uintptr_t>(mesh[0]->allocate(100).data()) % kFrameAlignment == 0);
}

TEST_CASE_TEMPLATE("transport: a frame with an empty header and an empty payload is still a message", T, Inproc, Ipc, Tcp, Shared) {
  Mesh mesh = connected_mesh(T::medium, 2);
  REQUIRE(mesh[0]->send(1, Lane::kUrgent, {}, {}, soon()));
  const Incoming message = must_receive(*mesh[1]);
  CHECK(message.header.empty());
  CHECK(message.payload.empty());
  CHECK(message.peer == 0);
}

TEST_CASE_TEMPLATE("transport: everybody sends to everybody before receiving", T, Inproc, Ipc, Tcp, Shared) {
  constexpr int kParticipants = 4;
  constexpr int kMessages = 6;
  constexpr std::size_t kBytes = 2'000'000;
  // Far less room than is sent: without taking in while sending, all of them would wait for each other.
  MeshLimits limits;
  limits.max_queued_bytes = 100'000;
  Mesh mesh = connected_mesh(T::medium, kParticipants, limits);
  std::atomic<int> received{0}, wrong{0}, failed{0};
  run_all(mesh, [&](Endpoint& self) {
    for (int i = 0; i < kMessages; ++i) {
      for (int peer = 0; peer < kParticipants; ++peer) {
        if (peer == self.self()) continue;
        const auto seed = static_cast<std::uint64_t>(self.self() * 100 + i);
        if (!self.send(peer, Lane::kBulk, text_frame(std::to_string(i)), pattern(kBytes, seed), soon())) ++failed;
      }
    }
    for (int i = 0; i < kMessages * (kParticipants - 1); ++i) {
      auto message = self.receive(soon());
      if (!message || !*message) {
        ++failed;
        return;
      }
      const auto seed = static_cast<std::uint64_t>((*message)->peer * 100 + std::stoi(frame_text((*message)->header)));
      if (!has_pattern((*message)->payload, kBytes, seed)) ++wrong;
      ++received;
    }
  });
  CHECK(failed == 0);
  CHECK(wrong == 0);
  CHECK(received == kParticipants * (kParticipants - 1) * kMessages);
}

TEST_CASE_TEMPLATE("transport: an urgent message overtakes bulk that is queued", T, Inproc, Ipc, Tcp, Shared) {
  MeshLimits limits;
  limits.receive_high_water_mark = 2;  // most of the bulk stays with the sender
  Mesh mesh = connected_mesh(T::medium, 2, limits);
  constexpr int kBulk = 60;
  for (int i = 0; i < kBulk; ++i) must_send(*mesh[0], 1, Lane::kBulk, "bulk", pattern(1'000'000, 1));
  must_send(*mesh[0], 1, Lane::kUrgent, "urgent", pattern(100, 2));
  std::this_thread::sleep_for(base::Milliseconds(100));
  int before = 0;
  while (frame_text(must_receive(*mesh[1]).header) != "urgent") ++before;
  CHECK(before <= 4);  // it is looked for in the first round of connections
  for (int i = before; i < kBulk; ++i) CHECK(frame_text(must_receive(*mesh[1]).header) == "bulk");
}

TEST_CASE_TEMPLATE("transport: receive honours its deadline", T, Inproc, Ipc, Tcp, Shared) {
  Mesh mesh = connected_mesh(T::medium, 2);
  for (const int wait : {0, 1, 60}) {
    const auto start = base::Clock::now();
    const auto received = mesh[0]->receive(in_ms(wait));
    REQUIRE(received);
    CHECK_FALSE(received->has_value());
    CHECK(milliseconds_since(start) >= wait);
    CHECK(milliseconds_since(start) < wait + 2000);
  }
}

TEST_CASE_TEMPLATE("transport: wake ends a receive, and is not lost when it comes first", T, Inproc, Ipc, Tcp, Shared) {
  Mesh mesh = connected_mesh(T::medium, 2);
  SUBCASE("while it waits") {
    std::thread waker([&] {
      std::this_thread::sleep_for(base::Milliseconds(50));
      mesh[0]->wake();
    });
    const auto start = base::Clock::now();
    const auto received = mesh[0]->receive(soon());
    waker.join();
    REQUIRE(received);
    CHECK_FALSE(received->has_value());
    CHECK(milliseconds_since(start) < 5000);
  }
  SUBCASE("before it, once, ahead of messages") {
    must_send(*mesh[1], 0, Lane::kBulk, "waiting", {});
    mesh[0]->wake();
    mesh[0]->wake();
    const auto received = mesh[0]->receive(soon());
    REQUIRE(received);
    CHECK_FALSE(received->has_value());
    CHECK(frame_text(must_receive(*mesh[0]).header) == "waiting");
  }
  SUBCASE("from many threads at once, none of them lost") {
    constexpr int kRounds = 300;
    for (int round = 0; round < kRounds; ++round) {
      std::thread first([&] { mesh[0]->wake(); });
      std::thread second([&] { mesh[0]->wake(); });
      const auto received = mesh[0]->receive(soon());
      REQUIRE(received);
      REQUIRE_FALSE(received->has_value());
      first.join();
      second.join();
      while (mesh[0]->receive(in_ms(0)).value()) FAIL("nothing was sent");
    }
    const auto start = base::Clock::now();
    CHECK_FALSE(mesh[0]->receive(in_ms(20)).value().has_value());
    CHECK(milliseconds_since(start) >= 20);  // nothing is left over that would make it spin
  }
}

TEST_CASE_TEMPLATE("transport: a send that finds no room gives up at its deadline, or when woken", T, Inproc, Ipc, Tcp) {
  MeshLimits limits;
  limits.max_queued_bytes = 1'000'000;
  limits.receive_high_water_mark = 1;
  limits.linger_ms = 0;
  Mesh mesh = connected_mesh(T::medium, 2, limits);
  // The receiver never looks: buffers on the way fill up, then the queue.
  base::Status sent;
  int messages = 0;
  auto start = base::Clock::now();
  while (sent && messages < 200) {
    start = base::Clock::now();
    sent = mesh[0]->send(1, Lane::kBulk, text_frame("h"), pattern(900'000, 1), in_ms(200));
    if (sent) ++messages;
  }
  REQUIRE_FALSE(sent);
  CHECK(sent.error().code == ErrorCode::kTimeout);
  CHECK(sent.error().message.find("participant 1 does not take its messages") != std::string::npos);
  CHECK(milliseconds_since(start) >= 200);
  CHECK(milliseconds_since(start) < 3000);

  // The other lane has its own room.
  CHECK(mesh[0]->send(1, Lane::kUrgent, text_frame("h"), pattern(100, 1), in_ms(200)));

  std::thread waker([&] {
    std::this_thread::sleep_for(base::Milliseconds(50));
    mesh[0]->wake();
  });
  sent = mesh[0]->send(1, Lane::kBulk, text_frame("h"), pattern(900'000, 1), soon());
  waker.join();
  REQUIRE_FALSE(sent);
  CHECK(sent.error().code == ErrorCode::kAborted);
  CHECK_FALSE(mesh[0]->receive(soon()).value().has_value());  // the wake-up is still there for receive()

  // Once the receiver looks, everything that was accepted arrives, and there is room again.
  std::atomic<int> arrived{0};
  std::thread reader([&] {
    while (arrived < messages + 2) {
      auto received = mesh[1]->receive(soon());
      if (!received || !*received) return;
      ++arrived;
    }
  });
  CHECK(mesh[0]->send(1, Lane::kBulk, text_frame("h"), pattern(900'000, 1), soon()));
  reader.join();
  CHECK(arrived == messages + 2);
}

TEST_CASE_TEMPLATE("transport: what was sent before closing arrives, then the loss is reported once", T, Inproc, Ipc, Tcp, Shared) {
  Mesh mesh = connected_mesh(T::medium, 3);
  must_send(*mesh[1], 0, Lane::kBulk, "last words", pattern(3'000'000, 3));
  const Incoming message = must_receive(*mesh[0]);
  CHECK(has_pattern(message.payload, 3'000'000, 3));
  mesh[1]->close();
  const base::Error loss = loss_at(*mesh[0]);
  CHECK(loss.code == ErrorCode::kPeerLost);
  CHECK(loss.message.find("participant 1") != std::string::npos);
  CHECK(mesh[0]->lost_peers() == std::vector<int>{1});
  CHECK_FALSE(mesh[0]->receive(in_ms(30)).value().has_value());
  const auto sent = mesh[0]->send(1, Lane::kBulk, {}, {}, soon());
  REQUIRE_FALSE(sent);
  CHECK(sent.error().code == ErrorCode::kPeerLost);
  // The others are not affected.
  must_send(*mesh[2], 0, Lane::kUrgent, "still here", {});
  CHECK(frame_text(must_receive(*mesh[0]).header) == "still here");
}

TEST_CASE_TEMPLATE("transport: a closed endpoint says so and waits for nothing", T, Inproc, Ipc, Tcp, Shared) {
  Mesh mesh = connected_mesh(T::medium, 2);
  mesh[0]->close();
  mesh[0]->close();
  mesh[0]->wake();
  mesh[0]->expel(1);
  CHECK(mesh[0]->receive(soon()).error().code == ErrorCode::kAborted);
  CHECK(mesh[0]->send(1, Lane::kBulk, {}, {}, soon()).error().code == ErrorCode::kAborted);
  CHECK(mesh[0]->connect(5, "inproc://5", soon()).error().code == ErrorCode::kAborted);
}

TEST_CASE_TEMPLATE("transport: an expelled peer is not heard and cannot come back", T, Inproc, Ipc, Tcp, Shared) {
  Mesh mesh = unconnected_mesh(T::medium, 3);
  const auto link = [&](int from, int to) {
    return mesh[static_cast<std::size_t>(from)]->connect(to, mesh[static_cast<std::size_t>(to)]->address().value(), soon());
  };
  SUBCASE("after it was connected") {
    REQUIRE(link(1, 0));
    REQUIRE(link(0, 1));
    must_send(*mesh[1], 0, Lane::kBulk, "heard", {});
    CHECK(frame_text(must_receive(*mesh[0]).header) == "heard");
    must_send(*mesh[1], 0, Lane::kBulk, "not heard", {});
    mesh[0]->expel(1);
    mesh[0]->expel(1);
    const auto received = mesh[0]->receive(in_ms(100));
    REQUIRE(received);  // no loss is reported to the one who expelled
    CHECK_FALSE(received->has_value());
    CHECK(mesh[0]->send(1, Lane::kBulk, {}, {}, soon()).error().code == ErrorCode::kPeerLost);
    CHECK(mesh[0]->connect(1, mesh[1]->address().value(), soon()).error().code == ErrorCode::kInvalidArgument);
    // The expelled peer is told.
    CHECK(loss_at(*mesh[1]).code == ErrorCode::kPeerLost);
    CHECK(mesh[1]->lost_peers() == std::vector<int>{0});
  }
  SUBCASE("before it connects") {
    mesh[0]->expel(1);
    REQUIRE(link(1, 0));
    static_cast<void>(mesh[1]->send(0, Lane::kBulk, text_frame("not heard"), {}, soon()));
    CHECK_FALSE(mesh[0]->receive(in_ms(100)).value().has_value());
    const base::Error refusal = loss_at(*mesh[1]);
    CHECK(refusal.code == ErrorCode::kPeerLost);
    CHECK(refusal.message.find("participant 0 refused the connection") != std::string::npos);
  }
  REQUIRE(link(2, 0));
  must_send(*mesh[2], 0, Lane::kBulk, "welcome", {});
  CHECK(frame_text(must_receive(*mesh[0]).header) == "welcome");
}

TEST_CASE_TEMPLATE("transport: messages over the limit are refused by the sender", T, Inproc, Ipc, Tcp, Shared) {
  MeshLimits limits;
  limits.max_message_bytes = 2'000'000;
  Mesh mesh = connected_mesh(T::medium, 2, limits);
  auto sent = mesh[0]->send(1, Lane::kBulk, text_frame("h"), pattern(2'000'000, 1), soon());
  REQUIRE_FALSE(sent);
  CHECK(sent.error().code == ErrorCode::kInvalidArgument);
  CHECK(sent.error().message == "a message of 2000001 bytes is over the limit of 2000000");
  sent = mesh[0]->send(1, Lane::kUrgent, text_frame("h"), pattern(kMaxUrgentBytes, 1), soon());
  REQUIRE_FALSE(sent);
  CHECK(sent.error().code == ErrorCode::kInvalidArgument);
  must_send(*mesh[0], 1, Lane::kBulk, "h", pattern(1'999'999, 1));
  CHECK(has_pattern(must_receive(*mesh[1]).payload, 1'999'999, 1));
}

TEST_CASE_TEMPLATE("transport: misuse is an error in words", T, Inproc, Ipc, Tcp, Shared) {
  Mesh mesh = unconnected_mesh(T::medium, 2);
  const auto address = mesh[1]->address().value();
  CHECK(mesh[0]->send(1, Lane::kBulk, {}, {}, soon()).error().message == "participant 0 is not connected to participant 1");
  CHECK(mesh[0]->connect(0, mesh[0]->address().value(), soon()).error().code == ErrorCode::kInvalidArgument);
  REQUIRE(mesh[0]->connect(1, address, soon()));
  CHECK(mesh[0]->connect(1, address, soon()).error().code == ErrorCode::kInvalidArgument);
}

TEST_CASE_TEMPLATE("transport: thousands of small messages between all", T, Inproc, Ipc, Tcp, Shared) {
  constexpr int kParticipants = 3;
  constexpr int kMessages = 3000;
  Mesh mesh = connected_mesh(T::medium, kParticipants);
  std::atomic<int> received{0}, failed{0};
  run_all(mesh, [&](Endpoint& self) {
    for (int i = 0; i < kMessages; ++i) {
      for (int peer = 0; peer < kParticipants; ++peer) {
        if (peer != self.self() && !self.send(peer, Lane::kUrgent, text_frame(std::to_string(i)), pattern(64, 5), soon())) ++failed;
      }
    }
    std::map<int, int> next;
    for (int i = 0; i < kMessages * (kParticipants - 1); ++i) {
      auto message = self.receive(soon());
      if (!message || !*message || std::stoi(frame_text((*message)->header)) != next[(*message)->peer]++) {
        ++failed;
        return;
      }
      ++received;
    }
  });
  CHECK(failed == 0);
  CHECK(received == kParticipants * (kParticipants - 1) * kMessages);
}

TEST_CASE_TEMPLATE("transport: random traffic arrives exactly once and in order", T, Inproc, Ipc, Tcp, Shared) {
  constexpr int kParticipants = 4;
  constexpr int kMessages = 300;
  const std::uint64_t seed = testing::seed();
  CAPTURE(seed);
  MeshLimits limits;
  limits.max_queued_bytes = 50'000;
  limits.receive_high_water_mark = 4;
  Mesh mesh = connected_mesh(T::medium, kParticipants, limits);
  // Every participant sends the same number of messages to each other one, so that each knows when it is done.
  std::atomic<int> failed{0}, received{0};
  run_all(mesh, [&](Endpoint& self) {
    std::mt19937_64 random(seed + static_cast<std::uint64_t>(self.self()));
    std::map<std::pair<int, Lane>, int> next_out, next_in;
    int expected = kMessages * (kParticipants - 1);
    const auto take = [&](base::Deadline deadline) {
      auto message = self.receive(deadline);
      if (!message) ++failed;
      if (!message || !*message) return;
      const int number = std::stoi(frame_text((*message)->header));
      const bool good = number == next_in[{(*message)->peer, (*message)->lane}]++ &&
                        has_pattern((*message)->payload, (*message)->payload.size(), (*message)->payload.size());
      if (!good) ++failed;
      ++received;
      --expected;
    };
    for (int i = 0; i < kMessages; ++i) {
      for (int step = 1; step < kParticipants; ++step) {
        const int peer = (self.self() + step) % kParticipants;
        const Lane lane = random() % 2 ? Lane::kUrgent : Lane::kBulk;
        const std::size_t bytes = random() % 5 == 0 ? random() % 100'000 : random() % 300;
        if (!self.send(peer, lane, text_frame(std::to_string(next_out[{peer, lane}]++)), pattern(bytes, bytes), soon())) ++failed;
        if (random() % 3 == 0) take(in_ms(0));
      }
    }
    const auto deadline = soon();
    while (expected > 0 && !deadline.passed()) take(deadline);
  });
  CHECK(failed == 0);
  CHECK(received == kParticipants * (kParticipants - 1) * kMessages);
}

}  // namespace tessera::transport
