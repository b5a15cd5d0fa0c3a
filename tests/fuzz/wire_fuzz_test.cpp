// Bounded, seeded fuzzing of what reads bytes from other processes. Under SANITIZE=address,undefined this also proves
// that no input makes them read or compute out of bounds.
#include <doctest/doctest.h>

#include "tests/support/seed.hpp"
#include "wire/control.hpp"
#include "wire/header.hpp"

#include <limits>
#include <random>
#include <string>

namespace tessera::wire {
namespace {

using Random = std::mt19937_64;

std::size_t below(Random& random, std::size_t count) { return static_cast<std::size_t>(random() % count); }

// Interesting 32-bit values more often than any others.
std::uint32_t edgy(Random& random) {
  const std::uint32_t edges[] = {0, 1, 2, 0x7ffffffe, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff, 65535, 65536};
  return random() % 2 ? edges[below(random, std::size(edges))] : static_cast<std::uint32_t>(random());
}

// What must hold for every header that is accepted.
void check_accepted(const Header& header, std::uint64_t limit) {
  REQUIRE(header.length <= limit);
  if (header.kind != MessageKind::kTensor) {
    REQUIRE(header.box == BoxRanges{});
    return;
  }
  bool is_empty = false;
  for (std::size_t axis = 0; axis < 4; ++axis) {
    REQUIRE(header.box.begin[axis] <= header.box.end[axis]);
    is_empty = is_empty || header.box.begin[axis] == header.box.end[axis];
  }
  long double bytes = static_cast<long double>(element_bytes(header.type));
  for (std::size_t axis = 0; axis < 4; ++axis) bytes *= header.box.end[axis] - header.box.begin[axis];
  REQUIRE(static_cast<long double>(header.length) == (is_empty ? 0.0L : bytes));
}

std::string mutate(std::string text, Random& random) {
  const char* pieces[] = {"{", "}", "[", "]", "\"", "\\", ",", ":", "null", "1e999", "-", "\\u0000", "\xff", "\xc3", "\"type\":"};
  for (std::size_t times = 1 + below(random, 4); times > 0; --times) {
    const std::size_t at = below(random, text.size() + 1);
    switch (random() % 4) {
      case 0:
        text.insert(at, pieces[below(random, std::size(pieces))]);
        break;
      case 1:
        text.erase(at, below(random, 5));
        break;
      case 2:
        if (at < text.size()) text[at] = static_cast<char>(random() & 0xff);
        break;
      default:
        text.insert(at, text.substr(below(random, text.size() + 1), 20));
        break;
    }
  }
  return text;
}

}  // namespace

TEST_CASE("fuzz: random and mutated headers are refused or hold what the format promises") {
  const std::uint64_t seed = testing::seed();
  CAPTURE(seed);
  Random random(seed);
  constexpr std::uint64_t kLimit = std::uint64_t{1} << 40;
  int accepted = 0, refused = 0;
  for (int i = 0; i < 100'000; ++i) {
    BoxRanges box;
    for (std::size_t axis = 0; axis < 4; ++axis) {
      box.begin[axis] = random() % 2 ? 0 : edgy(random);
      box.end[axis] = random() % 2 ? box.begin[axis] + static_cast<std::uint32_t>(random() % 64) : edgy(random);
    }
    Header header = tensor_header(static_cast<ElementType>(1 + random() % 5), box);
    if (random() % 8 == 0) header.length = edgy(random);
    auto bytes = encode_header(header);
    const std::size_t mutations = below(random, 4);
    for (std::size_t m = 0; m < mutations; ++m) bytes[below(random, bytes.size())] = static_cast<std::byte>(random() & 0xff);
    const std::size_t size = random() % 16 == 0 ? below(random, bytes.size()) : bytes.size();
    const auto decoded = decode_header(std::span(bytes).first(size), kLimit);
    if (!decoded) {
      ++refused;
      REQUIRE(decoded.error().code == base::ErrorCode::kProtocol);
      REQUIRE(decoded.error().message.starts_with("bad header: "));
      continue;
    }
    ++accepted;
    check_accepted(*decoded, kLimit);
    REQUIRE(encode_header(*decoded) == bytes);  // nothing in the 80 bytes is ignored
  }
  CHECK(accepted > 1000);
  CHECK(refused > 10'000);
}

TEST_CASE("fuzz: random bytes are no header") {
  const std::uint64_t seed = testing::seed();
  CAPTURE(seed);
  Random random(seed);
  for (int i = 0; i < 20'000; ++i) {
    std::vector<std::byte> bytes(below(random, 200));
    for (auto& byte : bytes) byte = static_cast<std::byte>(random() & 0xff);
    REQUIRE_FALSE(decode_header(bytes, std::numeric_limits<std::uint64_t>::max()));
  }
}

TEST_CASE("fuzz: mutated control messages are refused in words or read safely") {
  const std::uint64_t seed = testing::seed();
  CAPTURE(seed);
  Random random(seed);
  const std::string texts[] = {
      control_text("hello", {{"version", 1}, {"name", "pi-3"}, {"cores", 4}}),
      control_text("session", {{"token", "0123456789abcdef"}, {"peers", {{{"address", "tcp://10.0.0.1:5"}, {"n", 1}}}}, {"x", -1.5e300}}),
      control_text("plan", {{"boxes", {{0, 1, 2, 3}, {4, 5, 6, 7}}}, {"on", true}, {"none", nullptr}}),
  };
  int accepted = 0, refused = 0;
  for (int i = 0; i < 20'000; ++i) {
    const std::string text = mutate(texts[below(random, std::size(texts))], random);
    const auto message = parse_control(text);
    if (!message) {
      ++refused;
      REQUIRE_FALSE(message.error().message.empty());
      REQUIRE(message.error().message.find('\n') == std::string::npos);
      continue;
    }
    ++accepted;
    const Fields fields(*message);
    for (const char* field : {"version", "name", "token", "peers", "x", "boxes", "on", "none", "zz"}) {
      // Whatever is there: at most one of the types fits, except that an integer is also a number.
      const int fits = fields.integer(field).has_value() + fields.boolean(field).has_value() + fields.string(field).has_value() +
                       fields.array(field).has_value() + fields.object(field).has_value();
      REQUIRE(fits <= 1);
      if (fields.integer(field)) REQUIRE(fields.number(field));
    }
    REQUIRE(parse_control(control_text(message->type, message->body)));
  }
  CHECK(accepted > 100);
  CHECK(refused > 5000);
}

}  // namespace tessera::wire
