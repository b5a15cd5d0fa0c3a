#include <doctest/doctest.h>

#include "tests/support/seed.hpp"
#include "wire/hash.hpp"
#include "wire/header.hpp"

#include <cstring>
#include <limits>
#include <random>
#include <vector>

namespace tessera::wire {
namespace {

constexpr std::uint64_t kNoLimit = std::numeric_limits<std::uint64_t>::max();

Header sample() {
  Header header = tensor_header(ElementType::kFloat32, {{1, 2, 3, 4}, {3, 5, 7, 9}});
  header.session = 0x1122334455667788;
  header.run = 0x99aabbccddeeff00;
  header.transfer = 0xdeadbeef;
  header.source = 0xcafe;
  header.payload_hash = 0x0123456789abcdef;
  return header;
}

// The error of decoding `header` after its byte at `offset` was replaced.
std::string error_with(std::size_t offset, int value, Header header = sample()) {
  auto bytes = encode_header(header);
  bytes[offset] = static_cast<std::byte>(value);
  const auto decoded = decode_header(bytes, kNoLimit);
  return decoded ? "" : decoded.error().message;
}

}  // namespace

TEST_CASE("wire header: the bytes are where the format says, whatever the machine") {
  const auto bytes = encode_header(sample());
  const unsigned char expected[kHeaderBytes] = {'T',  'S',  'R',  'A',  1,    0,    1,    1,     // magic, version, kind, type
                                                0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,  // session
                                                0x00, 0xff, 0xee, 0xdd, 0xcc, 0xbb, 0xaa, 0x99,  // run
                                                0xef, 0xbe, 0xad, 0xde, 0xfe, 0xca, 0,    0,     // transfer, source, zero
                                                1,    0,    0,    0,    3,    0,    0,    0,    2, 0, 0, 0, 5, 0, 0, 0,  // n, c
                                                3,    0,    0,    0,    7,    0,    0,    0,    4, 0, 0, 0, 9, 0, 0, 0,  // y, x
                                                0xe0, 1,    0,    0,    0,    0,    0,    0,                             // 2*3*4*5 floats
                                                0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01};                         // payload hash
  CHECK(std::memcmp(bytes.data(), expected, kHeaderBytes) == 0);
}

TEST_CASE("wire header: what is encoded is decoded") {
  const std::uint64_t seed = testing::seed();
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  const ElementType types[] = {ElementType::kFloat32, ElementType::kFloat16, ElementType::kFloat64, ElementType::kInt32,
                               ElementType::kUint8};
  for (int i = 0; i < 2000; ++i) {
    CAPTURE(i);
    BoxRanges box;
    for (std::size_t axis = 0; axis < 4; ++axis) {
      box.begin[axis] = static_cast<std::uint32_t>(random() % 0x7fffff00);
      box.end[axis] = box.begin[axis] + static_cast<std::uint32_t>(random() % 200);
    }
    Header header = tensor_header(types[random() % 5], box);
    if (i % 4 == 0) header = {};
    if (i % 4 == 0) header.kind = i % 8 == 0 ? MessageKind::kControl : MessageKind::kWeights;
    if (i % 4 == 0) header.length = random();
    header.session = random();
    header.run = random();
    header.transfer = static_cast<std::uint32_t>(random());
    header.source = static_cast<std::uint16_t>(random());
    header.payload_hash = random();
    const auto decoded = decode_header(encode_header(header), kNoLimit);
    REQUIRE_MESSAGE(decoded, decoded.error().message);
    CHECK(*decoded == header);
  }
}

TEST_CASE("wire header: an empty box is a message without payload") {
  const Header header = tensor_header(ElementType::kFloat32, {{0, 0, 5, 0}, {2, 2, 5, 2}});
  CHECK(header.length == 0);
  CHECK(decode_header(encode_header(header), 0).has_value());
}

TEST_CASE("wire header: every field is checked and named") {
  CHECK(error_with(0, 'X') == "bad header: magic is 0x41525358");
  CHECK(error_with(4, 9).find("protocol version 9, this program speaks 1") != std::string::npos);
  CHECK(error_with(6, 0) == "bad header: unknown message kind 0");
  CHECK(error_with(6, 4) == "bad header: unknown message kind 4");
  CHECK(error_with(7, 6) == "bad header: unknown element type 6");
  CHECK(error_with(7, 0) == "bad header: a tensor without an element type");
  CHECK(error_with(6, 3) == "bad header: kind 3 has an element type or a box");
  CHECK(error_with(30, 1) == "bad header: reserved bytes are 0x0001, not 0");
  CHECK(error_with(31, 1) == "bad header: reserved bytes are 0x0100, not 0");
  CHECK(error_with(36, 0) == "bad header: box range n is [1, 0)");
  CHECK(error_with(63, 0x80) == "bad header: box range x is [4, 2147483657)");
  CHECK(error_with(64, 0) == "bad header: length is 256, but the box has 480 bytes");
  CHECK(error_with(7, 3) == "bad header: length is 480, but the box has 960 bytes");

  const auto good = encode_header(sample());
  CHECK(decode_header(std::span(good).first(79), kNoLimit).error().message == "bad header: 79 bytes instead of 80");
  CHECK(decode_header({}, kNoLimit).error().message == "bad header: 0 bytes instead of 80");
  CHECK(decode_header(good, 480).has_value());
  CHECK(decode_header(good, 479).error().message == "bad header: length 480 is over the limit of 479 bytes");
  CHECK(decode_header(good, 479).error().code == base::ErrorCode::kProtocol);
}

TEST_CASE("wire header: sizes that overflow 64 bits are refused, not wrapped") {
  // 2^20 * 2^20 * 2^20 * 4 elements of 4 bytes are 2^64: wrapped, that is 0 bytes, the length given.
  Header header = tensor_header(ElementType::kFloat32, {{0, 0, 0, 0}, {1u << 20, 1u << 20, 1u << 20, 4}});
  CHECK(header.length == 0);
  CHECK(decode_header(encode_header(header), kNoLimit).error().message == "bad header: the box has more bytes than 64 bits can count");
}

TEST_CASE("wire payload: size and content are checked") {
  std::vector<std::byte> payload(480, std::byte{7});
  Header header = sample();
  header.payload_hash = content_hash(payload);
  CHECK(check_payload(header, payload).has_value());
  CHECK_FALSE(check_payload(header, std::span(payload).first(479)).has_value());
  payload[123] ^= std::byte{16};
  CHECK(check_payload(header, payload).error().message.find("damaged on the way") != std::string::npos);
  header.payload_hash = 0;
  CHECK(check_payload(header, payload).has_value());
}

TEST_CASE("wire hash: known values, pieces, text") {
  CHECK(content_hash({}) == 0x2d06800538d394c2);  // XXH3's published value of nothing
  const std::string text = "the same content gives the same hash on every machine, however it is cut into pieces";
  const auto bytes = std::as_bytes(std::span(text));
  for (std::size_t cut = 0; cut <= bytes.size(); ++cut) {
    ContentHasher hasher;
    hasher.add(bytes.first(cut));
    hasher.add(text.substr(cut));
    CHECK(hasher.value() == content_hash(bytes));
  }
  CHECK(content_hash(bytes) != content_hash(bytes.first(20)));
  CHECK(hash_to_text(0xabc) == "0000000000000abc");
  CHECK(hash_from_text("0000000000000abc").value() == 0xabc);
  for (const char* bad : {"", "abc", "0000000000000ABC", "000000000000000g", "0000000000000abc0", "-000000000000abc", "0x00000000000abc"}) {
    CHECK_FALSE(hash_from_text(bad).has_value());
  }
}

}  // namespace tessera::wire
