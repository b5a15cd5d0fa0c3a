#include <doctest/doctest.h>

#include "transport/address.hpp"
#include "transport/token.hpp"

#include <string>

namespace tessera::transport {

TEST_CASE("addresses: accepted forms, and back to text") {
  for (const char* text : {"tcp://127.0.0.1:5555", "tcp://*:*", "tcp://[::1]:65535", "tcp://pi-3.local:1", "tcp://[fe80::1%eth0]:80",
                           "tcp://eth0:*", "ipc:///run/tessera.sock", "ipc://*", "ipc://@abstract", "inproc://x"}) {
    CAPTURE(text);
    const auto parsed = parse_address(text);
    REQUIRE(parsed);
    CHECK(to_string(*parsed) == text);
  }
  CHECK(to_string(*parse_address("tcp://localhost:0")) == "tcp://localhost:*");
  CHECK(to_string(*parse_address("tcp://localhost:0080")) == "tcp://localhost:80");
}

TEST_CASE("addresses: anything else is refused with the text, the reason and the forms") {
  for (const char* text : {"",
                           "tcp",
                           "tcp://",
                           "tcp://:5",
                           "tcp://host",
                           "tcp://host:",
                           "tcp://host:65536",
                           "tcp://host:-1",
                           "tcp://host:5x",
                           "tcp://[::1]",
                           "tcp://[::1:5",
                           "tcp://[host]:5",
                           "tcp://::1:5",
                           "tcp://a;b:5",
                           "tcp://a b:5",
                           "udp://a:5",
                           "ipc://",
                           "inproc://",
                           "http://a:5",
                           "tcp://host:*5"}) {
    CAPTURE(text);
    const auto parsed = parse_address(text);
    REQUIRE_FALSE(parsed);
    CHECK(parsed.error().code == base::ErrorCode::kInvalidArgument);
    CHECK(parsed.error().message.starts_with(fmt::format("bad address '{}': ", text)));
    CHECK(parsed.error().message.ends_with("use tcp://host:port, tcp://[ipv6]:port or ipc:///path"));
  }
  CHECK_FALSE(parse_address("ipc://" + std::string(108, 'a')));
  CHECK(parse_address("ipc://" + std::string(107, 'a')));
  CHECK_FALSE(parse_address(std::string_view("ipc://a\0b", 9)));
}

TEST_CASE("addresses: only loopback, ipc and inproc are local") {
  for (const char* text : {"tcp://127.0.0.1:*", "tcp://127.9.9.9:5", "tcp://localhost:5", "tcp://[::1]:5", "tcp://[0:0:0:0:0:0:0:1]:5",
                           "ipc:///tmp/x", "ipc://*", "inproc://x"}) {
    CHECK_MESSAGE(is_local_bind(text), text);
  }
  for (const char* text : {"tcp://*:5", "tcp://0.0.0.0:5", "tcp://[::]:5", "tcp://192.168.1.2:5", "tcp://128.0.0.1:5", "tcp://eth0:5",
                           "tcp://lo:5", "tcp://localhost.evil.org:5", "tcp://127.0.0.1.evil.org:5", "tcp://127.1:5",
                           "tcp://[::ffff:1.2.3.4]:5", "tcp://[fe80::1]:5", "tcp://pi:5", "nonsense", ""}) {
    CHECK_MESSAGE(!is_local_bind(text), text);
  }
}

TEST_CASE("addresses: names are resolved, numbers and paths are left alone") {
  const auto deadline = base::Deadline::after(base::Milliseconds(4000));
  CHECK(to_string(*resolve(*parse_address("tcp://localhost:5"), deadline)) == "tcp://127.0.0.1:5");
  for (const char* text : {"tcp://10.1.2.3:5", "tcp://[::1]:5", "tcp://*:5", "ipc:///tmp/x", "inproc://x"}) {
    CHECK(to_string(*resolve(*parse_address(text), deadline)) == text);
  }
  const auto start = base::Clock::now();
  const auto unknown = resolve(*parse_address("tcp://no-such-host.invalid:5"), deadline);
  REQUIRE_FALSE(unknown);
  CHECK(unknown.error().code == base::ErrorCode::kIo);
  CHECK(unknown.error().message.find("no-such-host.invalid") != std::string::npos);
  CHECK(base::seconds_between(start, base::Clock::now()) < 5);
}

TEST_CASE("addresses: a listener's host can be replaced for others") {
  CHECK(with_host("tcp://0.0.0.0:4321", "10.0.0.7").value() == "tcp://10.0.0.7:4321");
  CHECK(with_host("tcp://[::]:4321", "fe80::1").value() == "tcp://[fe80::1]:4321");
  CHECK(with_host("ipc:///tmp/x", "10.0.0.7").value() == "ipc:///tmp/x");
  CHECK_FALSE(with_host("tcp://0.0.0.0:4321", "a;b"));
  CHECK_FALSE(with_host("nonsense", "a"));
}

TEST_CASE("session tokens: text and back, all different, compared whole") {
  const SessionToken token = make_session_token();
  CHECK(token_to_text(token).size() == 32);
  CHECK(same_token(token_from_text(token_to_text(token)).value(), token));
  CHECK_FALSE(same_token(token, make_session_token()));
  CHECK_FALSE(same_token(token, SessionToken{}));
  for (std::size_t i = 0; i < token.bytes.size(); ++i) {
    SessionToken other = token;
    other.bytes[i] ^= std::byte{1};
    CHECK_FALSE(same_token(token, other));
  }
  CHECK_FALSE(token_from_text("00"));
  CHECK_FALSE(token_from_text(std::string(32, 'G')));
  CHECK_FALSE(token_from_text(std::string(33, '0')));
}

}  // namespace tessera::transport
