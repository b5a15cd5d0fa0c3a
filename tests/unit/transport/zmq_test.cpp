// What only real connections can do: strangers, foreign programs, processes that die or stop, addresses in use.
#include <doctest/doctest.h>

#include "tests/support/transport_mesh.hpp"
#include "tests/support/transport_raw.hpp"
#include "transport/zmq_control.hpp"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>

namespace tessera::transport {
namespace {

using namespace testing;
using base::ErrorCode;

std::unique_ptr<Endpoint> endpoint(const ZmqOptions& options) {
  auto made = make_zmq_endpoint(options);
  REQUIRE_MESSAGE(made, made.error().message);
  return std::move(*made);
}

// The next message's header, looking until it comes.
std::string next_header(Endpoint& from) {
  const auto received = from.receive(soon());
  REQUIRE_MESSAGE(received, received.error().message);
  REQUIRE(received->has_value());
  return frame_text((*received)->header);
}

// Lets `at` look at what has come, for this long; nothing may be delivered.
void take_in(Endpoint& at, int ms) {
  const auto received = at.receive(in_ms(ms));
  REQUIRE(received);
  REQUIRE_FALSE(received->has_value());
}

struct Directory {
  std::filesystem::path path;
  Directory() {
    std::string name = (std::filesystem::temp_directory_path() / "transport-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~Directory() { std::filesystem::remove_all(path); }
  std::string ipc(const std::string& name) const { return "ipc://" + (path / name).string(); }
};

std::string bind_error(const std::string& address) {
  ZmqOptions options;
  options.bind = address;
  const auto start = base::Clock::now();
  const auto made = make_zmq_endpoint(options);
  CHECK(base::seconds_between(start, base::Clock::now()) < 5);
  const auto control = listen_control(address);
  REQUIRE_FALSE(made);
  REQUIRE_FALSE(control);
  CHECK(control.error().message == made.error().message);
  return made.error().message;
}

}  // namespace

TEST_CASE("zmq: a wrong token, number or second connection is refused, in words to those who know the protocol") {
  const SessionToken token = make_session_token();
  auto server = endpoint(zmq_options(Medium::kTcp, 0, token));
  const std::string address = server->address().value();
  const auto refusal = [&](ZmqOptions options, int server_number) {
    auto client = endpoint(options);
    REQUIRE(client->connect(server_number, address, soon()));
    static_cast<void>(client->send(server_number, Lane::kBulk, text_frame("forged"), {}, soon()));
    take_in(*server, 150);
    const base::Error error = loss_at(*client);
    CHECK(error.code == ErrorCode::kPeerLost);
    return error.message;
  };
  CHECK(refusal(zmq_options(Medium::kTcp, 1, make_session_token()), 0) == "participant 0 refused the connection: wrong session token");
  CHECK(refusal(zmq_options(Medium::kTcp, 1, token), 7) == "participant 7 refused the connection: wrong participant number");

  auto first = endpoint(zmq_options(Medium::kTcp, 1, token));
  REQUIRE(first->connect(0, address, soon()));
  REQUIRE(first->send(0, Lane::kBulk, text_frame("mine"), {}, soon()));
  REQUIRE(first->send(0, Lane::kUrgent, text_frame("mine too"), {}, soon()));
  CHECK(next_header(*server).starts_with("mine"));
  CHECK(next_header(*server).starts_with("mine"));
  CHECK(refusal(zmq_options(Medium::kTcp, 1, token), 0) == "participant 0 refused the connection: this participant is connected already");
  CHECK(server->lost_peers().empty());
  REQUIRE(first->send(0, Lane::kBulk, text_frame("still mine"), {}, soon()));
  CHECK(next_header(*server) == "still mine");
}

TEST_CASE("zmq: strangers are dropped and counted while an exchange goes on") {
  Mesh mesh = connected_mesh(Medium::kTcp, 2);
  const std::string address = mesh[0]->address().value();
  // Speaks ZeroMQ, but not our protocol, though it sends what looks like messages.
  auto stranger = connect_control(address, "stranger", soon());
  REQUIRE_MESSAGE(stranger, stranger.error().message);
  std::vector<Frame> blob;
  blob.push_back(pattern(1000, 1));
  REQUIRE((*stranger)->send("header", std::move(blob), soon()));
  std::vector<Frame> blobs;
  for (int i = 0; i < 10; ++i) blobs.push_back(pattern(10, 1));
  REQUIRE((*stranger)->send("a message of many parts", std::move(blobs), soon()));
  const auto deadline = soon();
  while (mesh[0]->stats().dropped_messages < 3 && !deadline.passed()) take_in(*mesh[0], 20);
  CHECK(mesh[0]->stats().dropped_messages == 3);
  REQUIRE(mesh[1]->send(0, Lane::kBulk, text_frame("real"), {}, soon()));
  CHECK(next_header(*mesh[0]) == "real");
}

TEST_CASE("zmq: raw bytes on the port, and frames longer than allowed, cost the stranger its connection only") {
  MeshLimits limits;
  limits.max_message_bytes = 100'000;
  Mesh mesh = connected_mesh(Medium::kTcp, 2, limits);
  const std::string address = mesh[0]->address().value();
  RawConnection http(address);
  http.write("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + std::string(200, 'x'));
  const auto dropped = [&](std::uint64_t at_least) {
    const auto deadline = soon();
    while (mesh[0]->stats().dropped_messages < at_least && !deadline.passed()) take_in(*mesh[0], 20);
    return mesh[0]->stats().dropped_messages;
  };
  take_in(*mesh[0], 100);
  const auto before = dropped(0);
  RawConnection proper(address);
  proper.shake_hands("DEALER");
  proper.write(zmtp_frame(std::string(100'000, 'x'), false));
  CHECK(dropped(before + 1) == before + 1);
  RawConnection greedy(address);
  greedy.shake_hands("DEALER");
  greedy.write(zmtp_long_frame_start(std::uint64_t{1} << 40));
  CHECK(greedy.is_closed_by_peer());
  RawConnection just_over(address);
  just_over.shake_hands("DEALER");
  just_over.write(zmtp_frame(std::string(100'001, 'x'), false));
  CHECK(just_over.is_closed_by_peer());
  CHECK(dropped(0) == before + 1);  // the others never became messages
  REQUIRE(mesh[1]->send(0, Lane::kBulk, text_frame("real"), {}, soon()));
  CHECK(next_header(*mesh[0]) == "real");
}

TEST_CASE("zmq: a peer that sends something else than header and payload is lost, and nobody else") {
  const SessionToken token = make_session_token();
  auto server = endpoint(zmq_options(Medium::kTcp, 0, token));
  auto honest = endpoint(zmq_options(Medium::kTcp, 2, token));
  REQUIRE(honest->connect(0, server->address().value(), soon()));
  RawConnection peer(server->address().value());
  std::string hello = "TSHELLO1" + std::string(reinterpret_cast<const char*>(token.bytes.data()), 16);
  hello += std::string("\x01\0\0\0\0\0\0\0\x01", 9);  // from 1 to 0, bulk
  peer.shake_hands("DEALER");
  peer.write(zmtp_frame(hello, false));
  peer.write(zmtp_frame("good header", true) + zmtp_frame("good payload", false));
  CHECK(next_header(*server) == "good header");
  peer.write(zmtp_frame("one part only", false) + zmtp_frame("good again", true) + zmtp_frame("", false));
  CHECK(loss_at(*server).message == "participant 1 sent a malformed message");
  CHECK(server->lost_peers() == std::vector<int>{1});
  take_in(*server, 50);
  REQUIRE(honest->send(0, Lane::kBulk, text_frame("from 2"), {}, soon()));
  CHECK(next_header(*server) == "from 2");
}

TEST_CASE("zmq: a killed process is noticed at once, a stopped one after the heartbeat's time") {
  const SessionToken token = make_session_token();
  for (const Medium medium : {Medium::kIpc, Medium::kTcp}) {
    for (const int number : {SIGKILL, SIGSTOP}) {
      CAPTURE(medium_name(medium));
      CAPTURE(number);
      auto options = [&](int self) {
        ZmqOptions all = zmq_options(medium, self, token);
        all.heartbeat_interval_ms = 200;
        all.heartbeat_timeout_ms = 1000;
        all.linger_ms = 200;
        return all;
      };
      Child child([&](const Child::Pipe& pipe) {
        auto self = make_zmq_endpoint(options(1)).value();
        pipe.say(self->address().value());
        if (!self->connect(0, pipe.hear(), soon())) return;
        static_cast<void>(self->send(0, Lane::kBulk, text_frame("alive"), {}, soon()));
        const auto deadline = in_ms(30'000);
        auto received = self->receive(deadline);
        while (received && !deadline.passed()) received = self->receive(deadline);
        pipe.say(received ? "nothing was lost" : received.error().message);
      });
      auto parent = endpoint(options(0));
      const std::string address = child.pipe().hear();
      child.pipe().say(parent->address().value());
      REQUIRE(parent->connect(1, address, soon()));
      CHECK(next_header(*parent) == "alive");
      take_in(*parent, 1300);  // longer than the timeout: a healthy connection stays
      child.signal(number);
      const auto start = base::Clock::now();
      // A full queue to the dead neither blocks nor fails before it is noticed.
      for (int i = 0; i < 20; ++i) static_cast<void>(parent->send(1, Lane::kBulk, text_frame("h"), pattern(1'000'000, 1), in_ms(100)));
      const base::Error error = loss_at(*parent);
      CHECK(error.message == "participant 1 closed its connection or stopped answering");
      CHECK(base::seconds_between(start, base::Clock::now()) < 3);
      CHECK(parent->lost_peers() == std::vector<int>{1});
      const auto closing = base::Clock::now();
      parent->close();
      CHECK(base::seconds_between(closing, base::Clock::now()) < 2);
      if (number == SIGSTOP) {
        child.signal(SIGCONT);
        CHECK(child.pipe().hear() == "participant 0 closed its connection or stopped answering");
      }
    }
  }
}

TEST_CASE("zmq: closing delivers what was sent, even much of it") {
  MeshLimits limits;
  limits.linger_ms = 10'000;
  Mesh mesh = connected_mesh(Medium::kTcp, 2, limits);
  for (int i = 0; i < 20; ++i) REQUIRE(mesh[0]->send(1, Lane::kBulk, text_frame("h"), pattern(2'000'000, 9), soon()));
  std::thread closer([&] { mesh[0]->close(); });
  int received = 0;
  while (received < 20) {
    const auto message = mesh[1]->receive(soon());
    if (!message) continue;  // the loss may be seen before the last messages
    if (!*message) break;
    CHECK(has_pattern((*message)->payload, 2'000'000, 9));
    ++received;
  }
  closer.join();
  CHECK(received == 20);
}

TEST_CASE("zmq: an address that cannot be bound is an error in words within 5 s") {
  auto taken = endpoint({});
  const std::string address = taken->address().value();
  CHECK(bind_error(address) == "cannot listen on " + address + ": the port is in use; stop the other program or choose another port");
  CHECK(bind_error("tcp://192.0.2.1:*") ==
        "cannot listen on tcp://192.0.2.1:*: this machine has no such address; use one of its own (ip address) or *");
  CHECK(bind_error("tcp://no-such-host.invalid:*").find("this machine has no such address") != std::string::npos);
  CHECK(bind_error("tcp://127.0.0.1").find("the port is missing") != std::string::npos);
  CHECK(bind_error("inproc://x") == "cannot listen on inproc://x: use tcp:// or ipc://");
  const Directory directory;
  CHECK(bind_error(directory.ipc("missing/socket")).ends_with("the directory does not exist"));
  ZmqOptions options;
  options.bind = directory.ipc("socket");
  auto listener = endpoint(options);
  CHECK(listener->address().value() == options.bind);
  CHECK(bind_error(options.bind).ends_with("another program listens there; stop it or choose another path"));
  ZmqOptions other;
  other.self = 1;
  auto client = endpoint(other);
  CHECK(client->connect(0, options.bind, soon()).has_value());  // the listener was not displaced
}

TEST_CASE("zmq: a socket file left behind by a dead process is taken over") {
  const Directory directory;
  const std::string path = (directory.path / "socket").string();
  const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  REQUIRE(::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0);
  ::close(fd);
  REQUIRE(std::filesystem::exists(path));
  ZmqOptions options;
  options.bind = "ipc://" + path;
  CHECK(make_zmq_endpoint(options).has_value());
}

TEST_CASE("zmq: an address that cannot be reached is an error in words, in time") {
  auto client = endpoint({});
  const auto connect_error = [&](const std::string& address, int ms) {
    const auto start = base::Clock::now();
    const auto connected = client->connect(3, address, in_ms(ms));
    CHECK(base::seconds_between(start, base::Clock::now()) < 5);
    REQUIRE_FALSE(connected);
    const auto control = connect_control(address, "name", in_ms(ms));
    REQUIRE_FALSE(control);
    CHECK(control.error().code == connected.error().code);
    return connected.error().message;
  };
  std::string unused;
  {
    auto short_lived = endpoint({});
    unused = short_lived->address().value();
  }
  CHECK(connect_error(unused, 300) ==
        "cannot reach participant 3 at " + unused + ": nothing listens there; start it, or check host, port and firewall");
  CHECK(connect_error("ipc:///nonexistent/socket", 200).find("nothing listens there") != std::string::npos);
  CHECK(connect_error("tcp://no-such-host.invalid:5", 4000).find("no-such-host.invalid") != std::string::npos);
  CHECK(connect_error("tcp://127.0.0.1:*", 100).ends_with("give the host and port, or the path"));
  CHECK(connect_error("nonsense", 100).starts_with("bad address 'nonsense'"));
  // An HTTP server, and one that does not say a word.
  for (const char* reply : {"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", ""}) {
    const ForeignListener other(reply);
    CHECK(connect_error(other.address(), 2500) == "cannot reach participant 3 at " + other.address() +
                                                      ": something accepts connections there but does not speak our "
                                                      "protocol; is it stopped, or another program?");
  }

  client->wake();
  CHECK(client->connect(3, unused, soon()).error().code == ErrorCode::kAborted);
}

TEST_CASE("zmq: connecting waits for a listener that starts later") {
  const Directory directory;
  const SessionToken token = make_session_token();
  ZmqOptions late = zmq_options(Medium::kIpc, 1, token);
  late.bind = directory.ipc("late");
  std::unique_ptr<Endpoint> listener;
  std::thread starter([&] {
    std::this_thread::sleep_for(base::Milliseconds(200));
    listener = make_zmq_endpoint(late).value();
  });
  auto client = endpoint(zmq_options(Medium::kIpc, 0, token));
  const auto connected = client->connect(1, late.bind, soon());
  starter.join();
  REQUIRE_MESSAGE(connected, connected.error().message);
  REQUIRE(client->send(1, Lane::kBulk, text_frame("hello"), {}, soon()));
  CHECK(next_header(*listener) == "hello");
}

TEST_CASE("zmq: options are checked") {
  const auto error_with = [](auto change) {
    ZmqOptions options;
    change(options);
    const auto made = make_zmq_endpoint(options);
    return made ? "" : made.error().message;
  };
  CHECK(error_with([](auto& o) { o.self = -1; }) == "bad transport option: the participant number must be 0 to 65535");
  CHECK(error_with([](auto& o) { o.max_message_bytes = 0; }).find("byte limits") != std::string::npos);
  CHECK(error_with([](auto& o) { o.receive_high_water_mark = 0; }).find("high-water mark") != std::string::npos);
  CHECK(error_with([](auto& o) { o.linger_ms = -1; }).find("linger") != std::string::npos);
  CHECK(error_with([](auto& o) { o.handshake_ms = 0; }).find("handshake") != std::string::npos);
  CHECK(error_with([](auto& o) { o.heartbeat_timeout_ms = o.heartbeat_interval_ms; }).find("heartbeat timeout") != std::string::npos);
  CHECK(error_with([](auto& o) { o.io_threads = 0; }).find("I/O threads") != std::string::npos);
}

}  // namespace tessera::transport
