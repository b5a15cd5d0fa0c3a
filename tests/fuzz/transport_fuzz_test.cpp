// Rubbish thrown at listening ports while a real exchange goes on through them.
#include <doctest/doctest.h>

#include "tests/support/seed.hpp"
#include "tests/support/transport_mesh.hpp"
#include "tests/support/transport_raw.hpp"
#include "transport/zmq_control.hpp"

#include <atomic>
#include <random>
#include <thread>

namespace tessera::transport {
namespace {

using namespace testing;
using Random = std::mt19937_64;

std::string random_bytes(Random& random, std::size_t bytes) {
  std::string text(bytes, '\0');
  for (char& c : text) c = static_cast<char>(random() & 0xff);
  return text;
}

// One connection's worth of rubbish: raw bytes, or ZMTP whose messages are rubbish, of right and wrong framing.
void attack(const std::string& address, Random& random) {
  RawConnection connection(address);
  if (random() % 3 == 0) {
    connection.write(random_bytes(random, 1 + random() % 3000));
    return;
  }
  connection.shake_hands(random() % 4 == 0 ? "REQ" : "DEALER");
  for (std::uint64_t messages = random() % 6; messages > 0; --messages) {
    switch (random() % 5) {
      case 0:
        connection.write(zmtp_frame("TSHELLO1" + random_bytes(random, random() % 40), random() % 2 == 0));
        break;
      case 1:
        connection.write(zmtp_frame("TSCTRL1" + random_bytes(random, random() % 100), random() % 2 == 0));
        break;
      case 2:
        connection.write(zmtp_long_frame_start(random()));
        break;
      case 3:
        connection.write(random_bytes(random, random() % 300));
        break;
      default:
        connection.write(zmtp_frame(random_bytes(random, random() % 2000), random() % 2 == 0));
        break;
    }
  }
}

}  // namespace

TEST_CASE("fuzz: rubbish on the data port does not touch a running exchange") {
  const std::uint64_t seed = testing::seed();
  CAPTURE(seed);
  MeshLimits limits;
  limits.max_message_bytes = 1 << 20;
  Mesh mesh = connected_mesh(Medium::kTcp, 2, limits);
  const std::string address = mesh[0]->address().value();
  std::atomic<bool> done{false};
  std::atomic<int> attacks{0};
  std::thread attacker([&] {
    Random random(seed);
    for (; attacks < 150; ++attacks) {
      // A port that hangs up in the middle of an attack has done nothing wrong.
      try {
        attack(address, random);
      } catch (const std::runtime_error&) {
      }
    }
    done = true;
  });
  int round = 0, failed = 0;
  const auto deadline = soon();
  while ((!done || round < 200) && !deadline.passed()) {
    const auto bytes = static_cast<std::size_t>(round * 37 % 5000);
    const std::string header = std::to_string(round);
    if (!mesh[1]->send(0, round % 2 ? Lane::kBulk : Lane::kUrgent, text_frame(header), pattern(bytes, bytes), soon())) ++failed;
    const auto received = mesh[0]->receive(soon());
    const bool good = received && *received && (*received)->peer == 1 && frame_text((*received)->header) == header &&
                      has_pattern((*received)->payload, bytes, bytes);
    if (!good) ++failed;
    ++round;
  }
  attacker.join();
  CHECK(failed == 0);
  CHECK(round >= 200);
  CHECK(attacks == 150);
  CHECK(mesh[0]->stats().dropped_messages > 20);
  CHECK(mesh[0]->lost_peers().empty());
}

TEST_CASE("fuzz: rubbish on the control port does not touch a running exchange") {
  const std::uint64_t seed = testing::seed();
  CAPTURE(seed);
  ControlOptions options;
  options.max_blob_bytes = 1 << 20;
  options.max_text_bytes = 1 << 20;
  auto server = listen_control("tcp://127.0.0.1:*", options);
  REQUIRE(server);
  auto client = connect_control((*server)->address(), "honest", soon(), options);
  REQUIRE(client);
  std::atomic<bool> done{false};
  std::thread attacker([&] {
    Random random(seed + 1);
    for (int i = 0; i < 100; ++i) {
      try {
        attack((*server)->address(), random);
      } catch (const std::runtime_error&) {
      }
    }
    done = true;
  });
  int round = 0, failed = 0;
  const auto deadline = soon();
  while ((!done || round < 100) && !deadline.passed()) {
    const std::string text = "message " + std::to_string(round++);
    if (!(*client)->send(text, {}, soon())) ++failed;
    // Messages of attackers that have learnt the hello are somebody else's, not ours.
    while (true) {
      const auto received = (*server)->receive(soon());
      if (!received || !*received) {
        ++failed;
        break;
      }
      if ((*received)->peer_name != "honest") continue;
      if ((*received)->text != text) ++failed;
      break;
    }
  }
  attacker.join();
  CHECK(failed == 0);
  CHECK(round >= 100);
  CHECK((*server)->dropped_messages() > 10);
}

}  // namespace tessera::transport
