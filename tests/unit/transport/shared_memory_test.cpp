// Payloads in memory that processes share: whole, given back, and of no use to whoever makes places up.
#include <doctest/doctest.h>

#include "tests/support/random.hpp"
#include "tests/support/seed.hpp"
#include "tests/support/transport_mesh.hpp"
#include "tests/support/transport_raw.hpp"
#include "transport/shared_memory.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <limits>

namespace tessera::transport {
namespace {

using namespace testing;
using base::ErrorCode;

std::shared_ptr<SharedMemory> memory_of(int sharers) {
  auto created = SharedMemory::create(sharers);
  REQUIRE_MESSAGE(created, created.error().message);
  return std::move(*created);
}

void fill(Frame& frame, std::uint64_t seed) {
  const Frame expected = pattern(frame.size(), seed);
  std::memcpy(frame.data(), expected.data(), frame.size());
}

// Everything but the head of a block that fills the part.
std::size_t whole(const SharedMemory& memory) { return memory.part_bytes() - kFrameAlignment; }

// The next message, whose payload must be the pattern.
void expect_pattern(Endpoint& at, std::size_t bytes, std::uint64_t seed) {
  const auto received = at.receive(soon());
  REQUIRE_MESSAGE(received, received.error().message);
  REQUIRE(received->has_value());
  CHECK(has_pattern((*received)->payload, bytes, seed));
}

Frame filled_by(Endpoint& endpoint, std::size_t bytes, std::uint64_t seed) {
  Frame frame = endpoint.allocate(bytes);
  fill(frame, seed);
  return frame;
}

std::string little_endian(std::uint64_t value) {
  std::string bytes;
  for (unsigned i = 0; i < 8; ++i) bytes += static_cast<char>(value >> (8 * i));
  return bytes;
}

}  // namespace

TEST_CASE("shared memory: whatever is lent and returned, in any order, payloads stay whole and nothing is lost") {
  Rng rng(seed());
  const auto memory = memory_of(4);
  SharedPart part(memory, 2);
  struct Lent {
    Frame frame;
    std::uint64_t seed = 0;
  };
  std::vector<Lent> held;
  std::uint64_t next_seed = 0;
  int refused = 0;
  for (int step = 0; step < 4000; ++step) {
    CAPTURE(step);
    if (rng.chance(0.45) && !held.empty()) {
      const std::size_t at = rng.below(held.size());
      REQUIRE(has_pattern(held[at].frame, held[at].frame.size(), held[at].seed));
      std::swap(held[at], held.back());
      held.pop_back();
      continue;
    }
    const std::size_t bytes = rng.chance(0.1) ? 1 + rng.below(memory->part_bytes() / 2) : 1 + rng.below(100'000);
    auto frame = part.allocate(bytes);
    if (!frame) {
      ++refused;
      continue;
    }
    REQUIRE(frame->size() == bytes);
    REQUIRE(reinterpret_cast<std::uintptr_t>(frame->data()) % kFrameAlignment == 0);
    const std::uint64_t its_seed = ++next_seed;
    fill(*frame, its_seed);
    for (const int peer : {0, 1, 3}) {
      if (!rng.chance(0.5)) continue;
      const auto place = part.lend(*frame, peer);
      REQUIRE(place);
      CHECK_FALSE(part.lend(*frame, peer));  // has it already
      auto borrowed = memory->borrow(peer, 2, *place);
      REQUIRE_MESSAGE(borrowed, borrowed.error().message);
      held.push_back({std::move(*borrowed), its_seed});
    }
    if (rng.chance(0.3)) held.push_back({std::move(*frame), its_seed});
  }
  CHECK(refused > 0);  // the part was full at times
  CHECK_FALSE(part.allocate(whole(*memory)));
  held.clear();
  const auto all = part.allocate(whole(*memory));
  CHECK(all);
  CHECK_FALSE(part.allocate(1));
  CHECK_FALSE(part.allocate(whole(*memory) + 1));
}

TEST_CASE("shared memory: a frame from elsewhere, or for somebody without a part, is not lent") {
  const auto memory = memory_of(2);
  SharedPart part(memory, 0), other(memory, 1);
  const auto frame = part.allocate(100);
  REQUIRE(frame);
  for (const int peer : {-1, 0, 2, 1000}) CHECK_FALSE(part.lend(*frame, peer));
  CHECK_FALSE(part.lend(Frame::allocate(100), 1));
  CHECK_FALSE(part.lend(Frame(), 1));
  CHECK_FALSE(other.lend(*frame, 0));
  CHECK(part.lend(*frame, 1));
}

TEST_CASE("shared memory: what a peer held is taken back when it is forgotten") {
  const auto memory = memory_of(3);
  SharedPart part(memory, 0);
  for (const int peer : {1, 2}) {
    const auto frame = part.allocate(memory->part_bytes() / 2 - kFrameAlignment);
    REQUIRE(frame);
    REQUIRE(part.lend(*frame, peer));
  }
  CHECK_FALSE(part.allocate(1));
  part.forget(1);
  CHECK(part.allocate(1));
  CHECK_FALSE(part.allocate(whole(*memory)));
  part.forget(2);
  CHECK(part.allocate(whole(*memory)));
}

TEST_CASE("shared memory: impossible places are refused") {
  const auto memory = memory_of(2);
  const std::uint64_t part = memory->part_bytes(), huge = std::numeric_limits<std::uint64_t>::max();
  for (const Place& place : {Place{0, 64}, Place{64, 0}, Place{65, 64}, Place{64, part - 63}, Place{64, huge}, Place{part, 1},
                             Place{huge - 63, 64}, Place{huge - 63, huge}}) {
    CAPTURE(place.offset);
    CAPTURE(place.length);
    const auto borrowed = memory->borrow(0, 1, place);
    REQUIRE_FALSE(borrowed);
    CHECK(borrowed.error().code == ErrorCode::kProtocol);
  }
  CHECK_FALSE(memory->borrow(0, 2, {64, 64}));
  CHECK_FALSE(memory->borrow(0, -1, {64, 64}));
  CHECK(memory->borrow(0, 1, {64, part - 64}));
}

TEST_CASE("shared memory: a descriptor of something else is refused") {
  const auto refused = [](int descriptor) {
    const auto opened = SharedMemory::open(descriptor);
    REQUIRE_FALSE(opened);
    CHECK(opened.error().code == ErrorCode::kInvalidArgument);
  };
  refused(-1);
  int pipe_ends[2];
  REQUIRE(pipe(pipe_ends) == 0);
  refused(pipe_ends[0]);
  close(pipe_ends[0]);
  close(pipe_ends[1]);
  const int empty = memfd_create("test", MFD_CLOEXEC);
  refused(empty);
  REQUIRE(ftruncate(empty, 100'000) == 0);
  refused(empty);
  close(empty);
  const auto memory = memory_of(2);
  const int cut = dup(memory->descriptor());
  REQUIRE(ftruncate(cut, 4096) == 0);
  refused(cut);
  close(cut);
}

TEST_CASE("shared memory: another process reads what was sent, answers, and may be killed with payloads in its hands") {
  const SessionToken token = make_session_token();
  const auto memory = memory_of(2);
  const auto options = [&](int self) {
    ZmqOptions all = zmq_options(Medium::kShared, self, token);
    all.shared_memory = memory;
    all.linger_ms = 200;
    return all;
  };
  constexpr std::size_t kBytes = 10'000'000;
  Child child([&](const Child::Pipe& pipe) {
    auto own = options(1);
    own.shared_memory = SharedMemory::open(dup(memory->descriptor())).value();  // as a process that was started, not forked
    auto self = make_zmq_endpoint(own).value();
    pipe.say(self->address().value());
    if (!self->connect(0, pipe.hear(), soon())) return;
    auto first = self->receive(soon()).value();
    const bool whole_pattern = has_pattern(first->payload, kBytes, 1);
    first.reset();
    static_cast<void>(self->send(0, Lane::kBulk, text_frame("h"), filled_by(*self, kBytes, whole_pattern ? 2 : 3), soon()));
    std::vector<Incoming> hoard;  // and never lets go
    while (true) {
      auto received = self->receive(soon());
      if (!received) return;
      if (*received) hoard.push_back(std::move(**received));
      pipe.say("has it");
    }
  });
  auto made = make_zmq_endpoint(options(0));
  REQUIRE_MESSAGE(made, made.error().message);
  Endpoint& parent = **made;
  const std::string address = child.pipe().hear();
  child.pipe().say(parent.address().value());
  REQUIRE(parent.connect(1, address, soon()));
  REQUIRE(parent.send(1, Lane::kBulk, text_frame("h"), filled_by(parent, kBytes, 1), soon()));
  expect_pattern(parent, kBytes, 2);
  const std::byte* const begin = parent.allocate(kBytes).data();  // the lowest place, which is free again
  for (int i = 0; i < 3; ++i) {
    REQUIRE(parent.send(1, Lane::kBulk, text_frame("h"), filled_by(parent, kBytes, 5), soon()));
    REQUIRE(child.pipe().hear() == "has it");
  }
  CHECK(parent.allocate(kBytes).data() > begin);
  child.signal(SIGKILL);
  CHECK(loss_at(parent).code == ErrorCode::kPeerLost);
  CHECK(parent.allocate(kBytes).data() == begin);
}

TEST_CASE("shared memory: what finds no room there goes through the socket; one payload serves many") {
  Mesh mesh = connected_mesh(Medium::kShared, 3);
  std::vector<Frame> held;
  constexpr std::size_t kBytes = 9'000'000;
  for (int i = 0; i < 20; ++i) held.push_back(mesh[0]->allocate(kBytes));  // more than the part has
  REQUIRE(mesh[0]->send(1, Lane::kBulk, text_frame("h"), filled_by(*mesh[0], kBytes, 1), soon()));
  expect_pattern(*mesh[1], kBytes, 1);
  held.clear();
  for (int round = 0; round < 20; ++round) {
    auto frames = Frame::share(filled_by(*mesh[0], kBytes, 2), 3);
    REQUIRE(mesh[0]->send(1, Lane::kBulk, text_frame("h"), std::move(frames[0]), soon()));
    REQUIRE(mesh[0]->send(2, Lane::kBulk, text_frame("h"), std::move(frames[1]), soon()));
    REQUIRE(mesh[0]->send(1, Lane::kBulk, text_frame("h"), std::move(frames[2]), soon()));  // has it: travels by itself
    for (const int peer : {1, 2, 1}) expect_pattern(*mesh[static_cast<std::size_t>(peer)], kBytes, 2);
  }
  CHECK(mesh[0]->stats().sent_bytes == 61 * (kBytes + 1));
  CHECK(mesh[1]->stats().received_bytes == 41 * (kBytes + 1));
}

TEST_CASE("shared memory: a peer that makes places up is lost, and nobody else") {
  const SessionToken token = make_session_token();
  const auto memory = memory_of(3);
  for (const bool shares : {true, false}) {
    CAPTURE(shares);
    ZmqOptions options = zmq_options(Medium::kTcp, 0, token);
    if (shares) options.shared_memory = memory;
    const auto server = make_zmq_endpoint(options).value();
    RawConnection peer(server->address().value());
    std::string hello = "TSHELLO1" + std::string(reinterpret_cast<const char*>(token.bytes.data()), 16);
    hello += std::string("\x01\0\0\0\0\0\0\0\x01", 9);  // from 1 to 0, bulk
    peer.shake_hands("DEALER");
    peer.write(zmtp_frame(hello, false));
    const auto send_place = [&](std::uint64_t offset, std::uint64_t length) {
      peer.write(zmtp_frame("header", true) + zmtp_frame("", true) + zmtp_frame(little_endian(offset) + little_endian(length), false));
    };
    if (shares) {
      send_place(64, 1000);
      const auto received = server->receive(soon());
      REQUIRE(received);
      REQUIRE(received->has_value());
      CHECK((*received)->payload.size() == 1000);
    }
    send_place(64, memory->part_bytes());
    CHECK(loss_at(*server).message == "participant 1 sent a malformed message");
  }
}

}  // namespace tessera::transport
