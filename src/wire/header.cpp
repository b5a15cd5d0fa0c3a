#include "wire/header.hpp"

#include "wire/hash.hpp"

#include <limits>

namespace tessera::wire {
namespace {

constexpr std::array<char, 4> kAxes = {'n', 'c', 'y', 'x'};

class Writer {
 public:
  explicit Writer(std::span<std::byte> out) : out_(out) {}

  template <typename Unsigned>
  void put(Unsigned value) {
    for (std::size_t i = 0; i < sizeof(Unsigned); ++i) {
      out_[at_++] = static_cast<std::byte>(static_cast<std::uint64_t>(value) >> (8 * i) & 0xff);
    }
  }

 private:
  std::span<std::byte> out_;
  std::size_t at_ = 0;
};

class Reader {
 public:
  explicit Reader(std::span<const std::byte> in) : in_(in) {}

  template <typename Unsigned>
  Unsigned get() {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < sizeof(Unsigned); ++i) value |= std::to_integer<std::uint64_t>(in_[at_++]) << (8 * i);
    return static_cast<Unsigned>(value);
  }

 private:
  std::span<const std::byte> in_;
  std::size_t at_ = 0;
};

bool known_kind(std::uint8_t kind) { return kind >= 1 && kind <= 3; }
bool known_type(std::uint8_t type) { return type <= 5; }

base::Status check_box(const BoxRanges& box) {
  for (std::size_t axis = 0; axis < 4; ++axis) {
    if (box.begin[axis] > box.end[axis] || box.end[axis] > std::uint32_t{std::numeric_limits<std::int32_t>::max()}) {
      return base::error(base::ErrorCode::kProtocol, "bad header: box range {} is [{}, {})", kAxes[axis], box.begin[axis], box.end[axis]);
    }
  }
  return {};
}

// Bytes of the box, or nothing if they do not fit 64 bits.
base::Result<std::uint64_t> box_bytes(const BoxRanges& box, ElementType type) {
  std::uint64_t bytes = element_bytes(type);
  for (std::size_t axis = 0; axis < 4; ++axis) {
    const std::uint64_t size = box.end[axis] - box.begin[axis];
    if (size == 0) return 0;
    if (bytes > std::numeric_limits<std::uint64_t>::max() / size) {
      return base::error(base::ErrorCode::kProtocol, "bad header: the box has more bytes than 64 bits can count");
    }
    bytes *= size;
  }
  return bytes;
}

base::Status check_shape(const Header& header) {
  if (header.kind != MessageKind::kTensor) {
    if (header.type != ElementType::kBytes || header.box != BoxRanges{}) {
      return base::error(base::ErrorCode::kProtocol, "bad header: kind {} has an element type or a box", static_cast<int>(header.kind));
    }
    return {};
  }
  if (header.type == ElementType::kBytes) {
    return base::error(base::ErrorCode::kProtocol, "bad header: a tensor without an element type");
  }
  TESSERA_TRY(check_box(header.box));
  TESSERA_ASSIGN(const std::uint64_t expected, box_bytes(header.box, header.type));
  if (header.length != expected) {
    return base::error(base::ErrorCode::kProtocol, "bad header: length is {}, but the box has {} bytes", header.length, expected);
  }
  return {};
}

}  // namespace

std::size_t element_bytes(ElementType type) {
  switch (type) {
    case ElementType::kBytes:
    case ElementType::kUint8:
      return 1;
    case ElementType::kFloat16:
      return 2;
    case ElementType::kFloat32:
    case ElementType::kInt32:
      return 4;
    case ElementType::kFloat64:
      return 8;
  }
  return 1;
}

Header tensor_header(ElementType type, const BoxRanges& box) {
  Header header;
  header.kind = MessageKind::kTensor;
  header.type = type;
  header.box = box;
  header.length = element_bytes(type);
  for (std::size_t axis = 0; axis < 4; ++axis) header.length *= box.end[axis] - box.begin[axis];
  return header;
}

// magic u32 | version u16 | kind u8 | type u8 | session u64 | run u64 | transfer u32 | source u16 | zero u16 |
// n0 n1 c0 c1 y0 y1 x0 x1 u32 each | length u64 | payload hash u64; 80 bytes, little-endian.
std::array<std::byte, kHeaderBytes> encode_header(const Header& header) {
  std::array<std::byte, kHeaderBytes> bytes;
  Writer out(bytes);
  out.put(kMagic);
  out.put(kProtocolVersion);
  out.put(static_cast<std::uint8_t>(header.kind));
  out.put(static_cast<std::uint8_t>(header.type));
  out.put(header.session);
  out.put(header.run);
  out.put(header.transfer);
  out.put(header.source);
  out.put(std::uint16_t{0});
  for (std::size_t axis = 0; axis < 4; ++axis) {
    out.put(header.box.begin[axis]);
    out.put(header.box.end[axis]);
  }
  out.put(header.length);
  out.put(header.payload_hash);
  return bytes;
}

base::Result<Header> decode_header(std::span<const std::byte> bytes, std::uint64_t max_payload_bytes) {
  using base::ErrorCode;
  if (bytes.size() != kHeaderBytes) {
    return base::error(ErrorCode::kProtocol, "bad header: {} bytes instead of {}", bytes.size(), kHeaderBytes);
  }
  Reader in(bytes);
  const auto magic = in.get<std::uint32_t>();
  if (magic != kMagic) return base::error(ErrorCode::kProtocol, "bad header: magic is {:#010x}", magic);
  const auto version = in.get<std::uint16_t>();
  if (version != kProtocolVersion) {
    return base::error(ErrorCode::kProtocol,
                       "bad header: protocol version {}, this program speaks {}; install the same "
                       "version on all devices",
                       version, kProtocolVersion);
  }
  const auto kind = in.get<std::uint8_t>();
  if (!known_kind(kind)) return base::error(ErrorCode::kProtocol, "bad header: unknown message kind {}", kind);
  const auto type = in.get<std::uint8_t>();
  if (!known_type(type)) return base::error(ErrorCode::kProtocol, "bad header: unknown element type {}", type);

  Header header;
  header.kind = static_cast<MessageKind>(kind);
  header.type = static_cast<ElementType>(type);
  header.session = in.get<std::uint64_t>();
  header.run = in.get<std::uint64_t>();
  header.transfer = in.get<std::uint32_t>();
  header.source = in.get<std::uint16_t>();
  const auto reserved = in.get<std::uint16_t>();
  if (reserved != 0) return base::error(ErrorCode::kProtocol, "bad header: reserved bytes are {:#06x}, not 0", reserved);
  for (std::size_t axis = 0; axis < 4; ++axis) {
    header.box.begin[axis] = in.get<std::uint32_t>();
    header.box.end[axis] = in.get<std::uint32_t>();
  }
  header.length = in.get<std::uint64_t>();
  header.payload_hash = in.get<std::uint64_t>();
  if (header.length > max_payload_bytes) {
    return base::error(ErrorCode::kProtocol, "bad header: length {} is over the limit of {} bytes", header.length, max_payload_bytes);
  }
  TESSERA_TRY(check_shape(header));
  return header;
}

base::Status check_payload(const Header& header, std::span<const std::byte> payload) {
  if (payload.size() != header.length) {
    return base::error(base::ErrorCode::kProtocol,
                       "bad payload: transfer {} from participant {} has {} bytes, its header "
                       "says {}",
                       header.transfer, header.source, payload.size(), header.length);
  }
  if (header.payload_hash != 0 && content_hash(payload) != header.payload_hash) {
    return base::error(base::ErrorCode::kProtocol,
                       "bad payload: transfer {} from participant {} was damaged on the way "
                       "(its hash differs)",
                       header.transfer, header.source);
  }
  return {};
}

}  // namespace tessera::wire
