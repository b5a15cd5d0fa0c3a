// The header that travels in front of every payload between participants: a fixed-width, little-endian record,
// written and read byte by byte, so neither host byte order nor struct layout matters.
#pragma once

#include "base/result.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace tessera::wire {

inline constexpr std::uint32_t kMagic = 0x41525354;  // the bytes "TSRA"
inline constexpr std::uint16_t kProtocolVersion = 1;
inline constexpr std::size_t kHeaderBytes = 80;

enum class MessageKind : std::uint8_t {
  kTensor = 1,   // a box of a tensor or of a flat array; elements in (n, c, y, x) order
  kControl = 2,  // JSON text (control.hpp)
  kWeights = 3,  // a blob: weights, momentum, a compiled program
};

enum class ElementType : std::uint8_t {
  kBytes = 0,  // not an array: the only type of control and weights messages
  kFloat32 = 1,
  kFloat16 = 2,
  kFloat64 = 3,
  kInt32 = 4,
  kUint8 = 5,
};

// Size of one element, 1 for kBytes.
std::size_t element_bytes(ElementType type);

// Half-open ranges in the order n, c, y, x; the same meaning as geometry::Box, which this folder does not know.
struct BoxRanges {
  std::array<std::uint32_t, 4> begin{};
  std::array<std::uint32_t, 4> end{};
  friend bool operator==(const BoxRanges&, const BoxRanges&) = default;
};

struct Header {
  MessageKind kind = MessageKind::kTensor;
  ElementType type = ElementType::kBytes;
  std::uint64_t session = 0;
  std::uint64_t run = 0;           // counts executions of a program within the session
  std::uint32_t transfer = 0;      // unique inside one program
  std::uint16_t source = 0;        // participant that sent it; a claim, to be compared with the connection's peer
  BoxRanges box;                   // all zero unless kind is kTensor
  std::uint64_t length = 0;        // payload bytes
  std::uint64_t payload_hash = 0;  // content_hash(payload), or 0 = the sender did not compute it
  friend bool operator==(const Header&, const Header&) = default;
};

// A header whose length follows from box and type.
Header tensor_header(ElementType type, const BoxRanges& box);

std::array<std::byte, kHeaderBytes> encode_header(const Header& header);

// Every field is validated: magic, version, known kind and type, zero reserved bytes, begin <= end in each range
// (and ends that fit a signed 32-bit integer), elements * element size == length without overflow, length <=
// max_payload_bytes. Errors are kProtocol and name the field.
[[nodiscard]] base::Result<Header> decode_header(std::span<const std::byte> bytes, std::uint64_t max_payload_bytes);

// The payload that came with a decoded header: right size and, if the sender hashed it, the right content.
[[nodiscard]] base::Status check_payload(const Header& header, std::span<const std::byte> payload);

}  // namespace tessera::wire
