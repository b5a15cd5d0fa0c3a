#include <doctest/doctest.h>

#include "tests/support/transport_mesh.hpp"
#include "tests/support/transport_raw.hpp"
#include "transport/zmq_control.hpp"

#include <csignal>
#include <thread>

namespace tessera::transport {
namespace {

using namespace testing;
using base::ErrorCode;

std::unique_ptr<ControlServer> listen(Medium medium, const ControlOptions& options = {}) {
  auto server = listen_control(any_address(medium), options);
  REQUIRE_MESSAGE(server, server.error().message);
  return std::move(*server);
}

std::unique_ptr<ControlClient> connect(const ControlServer& server, const std::string& name, const ControlOptions& options = {}) {
  auto client = connect_control(server.address(), name, soon(), options);
  REQUIRE_MESSAGE(client, client.error().message);
  return std::move(*client);
}

template <typename Channel>
ControlIncoming must_receive(Channel& channel) {
  auto received = channel.receive(soon());
  REQUIRE_MESSAGE(received, received.error().message);
  REQUIRE(received->has_value());
  return std::move(**received);
}

std::vector<Frame> blobs(std::vector<std::size_t> sizes) {
  std::vector<Frame> frames;
  for (const auto bytes : sizes) frames.push_back(pattern(bytes, bytes));
  return frames;
}

}  // namespace

TEST_CASE("control: several named clients talk with one server, text and blobs, both ways") {
  for (const Medium medium : {Medium::kIpc, Medium::kTcp}) {
    CAPTURE(medium_name(medium));
    auto server = listen(medium);
    auto anna = connect(*server, "anna");
    auto bob = connect(*server, "bob\n" + std::string(100, 'x'));
    REQUIRE(anna->send("hello", {}, soon()));
    const ControlIncoming first = must_receive(*server);
    CHECK(first.peer_name == "anna");
    CHECK(first.text == "hello");
    CHECK(first.blobs.empty());
    REQUIRE(bob->send("weights", blobs({0, 100, 5'000'000}), soon()));
    const ControlIncoming second = must_receive(*server);
    CHECK(second.peer_name == "bob?" + std::string(60, 'x'));
    CHECK(second.peer != first.peer);
    REQUIRE(second.blobs.size() == 3);
    for (std::size_t i = 0; i < 3; ++i)
      CHECK(has_pattern(second.blobs[i], std::vector<std::size_t>{0, 100, 5'000'000}[i], second.blobs[i].size()));

    REQUIRE(server->send(first.peer, "for anna", blobs({3'000'000}), soon()));
    REQUIRE(server->send(second.peer, "for bob", {}, soon()));
    const ControlIncoming to_anna = must_receive(*anna);
    CHECK(to_anna.text == "for anna");
    REQUIRE(to_anna.blobs.size() == 1);
    CHECK(has_pattern(to_anna.blobs[0], 3'000'000, 3'000'000));
    CHECK(must_receive(*bob).text == "for bob");
    CHECK(server->dropped_messages() + anna->dropped_messages() + bob->dropped_messages() == 0);
  }
}

TEST_CASE("control: waiting ends at the deadline or by wake, at both ends") {
  auto server = listen(Medium::kTcp);
  auto client = connect(*server, "c");
  const auto start = base::Clock::now();
  CHECK_FALSE(server->receive(in_ms(50)).value().has_value());
  CHECK_FALSE(client->receive(in_ms(50)).value().has_value());
  CHECK(base::seconds_between(start, base::Clock::now()) >= 0.1);
  std::thread waker([&] {
    std::this_thread::sleep_for(base::Milliseconds(50));
    server->wake();
    client->wake();
  });
  CHECK_FALSE(server->receive(soon()).value().has_value());
  CHECK_FALSE(client->receive(soon()).value().has_value());
  waker.join();
  CHECK(base::seconds_between(start, base::Clock::now()) < 10);
}

TEST_CASE("control: a client notices that the server is gone; sending to a gone client fails") {
  auto server = listen(Medium::kTcp);
  auto client = connect(*server, "c");
  auto leaver = connect(*server, "leaver");
  REQUIRE(leaver->send("bye", {}, soon()));
  const ControlPeer peer = must_receive(*server).peer;
  leaver.reset();
  base::Status sent;
  for (const auto deadline = soon(); sent && !deadline.passed();) sent = server->send(peer, "are you there?", {}, soon());
  REQUIRE_FALSE(sent);
  CHECK(sent.error().code == ErrorCode::kPeerLost);
  CHECK(sent.error().message == "'leaver' closed its control connection");
  CHECK(server->send(peer, "again", {}, soon()).error().code == ErrorCode::kPeerLost);
  CHECK(server->send(9999, "nobody", {}, soon()).error().code == ErrorCode::kPeerLost);

  server.reset();
  const auto received = client->receive(soon());
  REQUIRE_FALSE(received);
  CHECK(received.error().code == ErrorCode::kPeerLost);
  CHECK(client->receive(soon()).error().code == ErrorCode::kPeerLost);
  CHECK(client->send("x", {}, soon()).error().code == ErrorCode::kPeerLost);
}

TEST_CASE("control: sending to a gone client whose queue is full fails, and what others sent meanwhile is not lost") {
  ControlOptions small;
  small.high_water_mark = 4;
  for (int round = 0; round < 10; ++round) {
    auto server = listen(Medium::kTcp, small);
    auto talker = connect(*server, "talker");
    auto leaver = connect(*server, "leaver");
    REQUIRE(leaver->send("bye", {}, soon()));
    const ControlPeer peer = must_receive(*server).peer;
    // Never reads: buffers on the way fill up, then the queue.
    const std::string much(100'000, 'x');
    base::Status sent;
    while (sent) sent = server->send(peer, much, {}, in_ms(50));
    REQUIRE(sent.error().code == ErrorCode::kTimeout);
    for (const char* text : {"1", "2", "3"}) REQUIRE(talker->send(text, {}, soon()));
    leaver.reset();
    sent = {};
    while (sent) sent = server->send(peer, "are you there?", {}, soon());
    CHECK(sent.error().code == ErrorCode::kPeerLost);
    for (const char* text : {"1", "2", "3"}) CHECK(must_receive(*server).text == text);
  }
}

TEST_CASE("control: with heartbeats, a client notices a server process that is stopped") {
  ControlOptions options;
  options.heartbeat_interval_ms = 100;
  options.heartbeat_timeout_ms = 500;
  Child child([&](const Child::Pipe& pipe) {
    auto server = listen_control("tcp://127.0.0.1:*", options).value();
    pipe.say(server->address());
    static_cast<void>(server->receive(in_ms(30'000)));
  });
  auto client = connect_control(child.pipe().hear(), "c", soon(), options);
  REQUIRE(client);
  CHECK_FALSE((*client)->receive(in_ms(700)).value().has_value());
  child.signal(SIGSTOP);
  const auto start = base::Clock::now();
  const auto received = (*client)->receive(soon());
  REQUIRE_FALSE(received);
  CHECK(received.error().code == ErrorCode::kPeerLost);
  CHECK(base::seconds_between(start, base::Clock::now()) < 3);
}

TEST_CASE("control: limits are kept by the sender, and by the receiver against a sender that does not") {
  ControlOptions small;
  small.max_text_bytes = 1000;
  small.max_blob_bytes = 2000;
  small.max_blobs = 2;
  auto server = listen(Medium::kTcp, small);
  auto client = connect(*server, "c", small);
  CHECK(client->send(std::string(1001, 'x'), {}, soon()).error().message == "a control message of 1001 bytes is over the limit of 1000");
  CHECK(client->send("x", blobs({2001}), soon()).error().message == "a blob of 2001 bytes is over the limit of 2000");
  CHECK(client->send("x", blobs({1, 1, 1}), soon()).error().message == "a control message with 3 blobs is over the limit of 2");
  auto greedy = connect(*server, "greedy");
  REQUIRE(greedy->send(std::string(1001, 'x'), {}, soon()));
  REQUIRE(greedy->send("x", blobs({1, 1, 1}), soon()));
  REQUIRE(greedy->send("in bounds", blobs({2000, 2000}), soon()));
  CHECK(must_receive(*server).text == "in bounds");
  CHECK(server->dropped_messages() == 2);
  REQUIRE(greedy->send("x", blobs({2001}), soon()));  // ZeroMQ itself ends this connection
  const auto received = greedy->receive(soon());
  REQUIRE_FALSE(received);
  CHECK(received.error().code == ErrorCode::kPeerLost);
  REQUIRE(client->send("still served", {}, soon()));
  CHECK(must_receive(*server).text == "still served");
}

TEST_CASE("control: strangers are dropped and counted; a dropped client is not heard again") {
  auto server = listen(Medium::kTcp);
  auto client = connect(*server, "c");
  RawConnection http(server->address());
  http.write("GET / HTTP/1.1\r\n\r\n");
  RawConnection stranger(server->address());
  stranger.shake_hands("DEALER");
  stranger.write(zmtp_frame("no hello", false) + zmtp_frame("TSCTRL1 with", true) + zmtp_frame("two parts", false));
  const auto deadline = soon();
  while (server->dropped_messages() < 2 && !deadline.passed()) CHECK_FALSE(server->receive(in_ms(20)).value().has_value());
  CHECK(server->dropped_messages() == 2);

  REQUIRE(client->send("heard", {}, soon()));
  const ControlIncoming message = must_receive(*server);
  CHECK(message.text == "heard");
  server->drop(message.peer);
  REQUIRE(client->send("not heard", {}, soon()));
  CHECK_FALSE(server->receive(in_ms(100)).value().has_value());
  CHECK(server->send(message.peer, "x", {}, soon()).error().code == ErrorCode::kPeerLost);
}

TEST_CASE("control: a server full of clients forgets the one silent for longest") {
  ControlOptions options;
  options.max_peers = 2;
  auto server = listen(Medium::kTcp, options);
  auto first = connect(*server, "first");
  auto second = connect(*server, "second");
  REQUIRE(first->send("1", {}, soon()));
  const ControlPeer first_peer = must_receive(*server).peer;
  REQUIRE(second->send("2", {}, soon()));
  const ControlPeer second_peer = must_receive(*server).peer;
  auto third = connect(*server, "third");
  REQUIRE(third->send("3", {}, soon()));
  CHECK(must_receive(*server).peer_name == "third");
  CHECK(server->send(first_peer, "x", {}, soon()).error().code == ErrorCode::kPeerLost);
  CHECK(server->send(second_peer, "x", {}, soon()).has_value());
}

TEST_CASE("control: a peer that is kept is not forgotten, however many come") {
  ControlOptions options;
  options.max_peers = 2;
  auto server = listen(Medium::kTcp, options);
  auto first = connect(*server, "first");
  REQUIRE(first->send("1", {}, soon()));
  const ControlPeer peer = must_receive(*server).peer;
  server->keep(peer);
  for (int i = 0; i < 4; ++i) {
    auto stranger = connect(*server, "stranger");
    REQUIRE(stranger->send("s", {}, soon()));
    CHECK(must_receive(*server).peer_name == "stranger");
  }
  CHECK(server->send(peer, "x", {}, soon()));
  server->keep(0);
  auto second = connect(*server, "second"), third = connect(*server, "third");
  REQUIRE(second->send("2", {}, soon()));
  must_receive(*server);
  REQUIRE(third->send("3", {}, soon()));
  must_receive(*server);
  CHECK(server->send(peer, "x", {}, soon()).error().code == ErrorCode::kPeerLost);
}

TEST_CASE("control: a peer that takes nothing makes the sender give up at its deadline") {
  ControlOptions options;
  options.high_water_mark = 1;
  options.linger_ms = 0;
  auto server = listen(Medium::kIpc, options);
  auto client = connect(*server, "c", options);
  REQUIRE(client->send("here", {}, soon()));
  const ControlPeer peer = must_receive(*server).peer;
  const auto fill = [](auto send) {
    base::Status sent;
    for (int i = 0; sent && i < 500; ++i) sent = send();
    REQUIRE_FALSE(sent);
    return sent.error().code;
  };
  CHECK(fill([&] { return server->send(peer, "x", blobs({500'000}), in_ms(100)); }) == ErrorCode::kTimeout);
  CHECK(fill([&] { return client->send("x", blobs({500'000}), in_ms(100)); }) == ErrorCode::kTimeout);
}

TEST_CASE("control: options are checked") {
  ControlOptions options;
  options.max_peers = 0;
  CHECK(listen_control("tcp://127.0.0.1:*", options).error().message ==
        "bad control channel option: the number of peers must be at least 1");
  options = {};
  options.heartbeat_interval_ms = options.heartbeat_timeout_ms;
  CHECK(connect_control("tcp://127.0.0.1:1", "c", soon(), options).error().code == ErrorCode::kInvalidArgument);
}

}  // namespace tessera::transport
