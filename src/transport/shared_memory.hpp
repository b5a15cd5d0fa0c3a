// Memory that the processes of one machine have in common: a large payload is written into it once and read where it
// lies; only its place travels over the sockets. Every participant has a part of its own, in which it alone allocates.
//
//   Sender                                          Receiver
//   frame = part.allocate(bytes)
//   fill frame; place = part.lend(frame, receiver)
//   drop frame, send place                   ->     frame = memory->borrow(receiver, sender, place)
//                                                   read frame, drop it: the sender may use the memory again
//
// A block is free when nobody holds it: each holder has a bit in the block's head, which it takes back without the
// sender's doing. A holder that died is forgotten by the sender. Linux only (memfd_create).
#pragma once

#include "base/result.hpp"
#include "transport/frame.hpp"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

namespace tessera::transport {

inline constexpr int kMostSharers = 32;  // a bit each

// Where a payload lies in its sender's part, in bytes.
struct Place {
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
};

// The whole of it, mapped into this process. Thread-safe.
class SharedMemory : public std::enable_shared_from_this<SharedMemory> {
 public:
  // For participants 0 .. sharers-1 (1 to kMostSharers). It takes no memory before it is used. kIo: the system has none
  // to give, or does not know how.
  [[nodiscard]] static base::Result<std::shared_ptr<SharedMemory>> create(int sharers);
  // What another process has created. Takes over the descriptor, which must have been inherited from that process.
  // kInvalidArgument: it is not one of these.
  [[nodiscard]] static base::Result<std::shared_ptr<SharedMemory>> open(int descriptor);
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  int descriptor() const { return descriptor_; }
  int sharers() const { return sharers_; }
  std::size_t part_bytes() const { return part_bytes_; }

  // The payload that `sender` has lent to `receiver`. Read only. Whoever drops the frame gives it back.
  // kProtocol: there can be no such place.
  [[nodiscard]] base::Result<Frame> borrow(int receiver, int sender, const Place& place);

 private:
  friend class SharedPart;
  using Holders = std::atomic<std::uint32_t>;
  static_assert(Holders::is_always_lock_free, "a lock would be of one process only");

  SharedMemory(int descriptor, std::byte* memory, int sharers, std::size_t part_bytes)
      : descriptor_(descriptor), memory_(memory), sharers_(sharers), part_bytes_(part_bytes) {}
  std::byte* part(int participant) const;
  std::size_t mapped_bytes() const;
  // A frame over the payload of a block that `holder` holds; borrowed: in another participant's part.
  Frame frame(std::byte* payload, std::size_t bytes, int holder, bool borrowed);

  int descriptor_;
  std::byte* memory_;
  int sharers_;
  std::size_t part_bytes_;
};

// A participant's own part. One thread; its frames may be dropped on any.
class SharedPart {
 public:
  // One for each participant, as long as the memory lives.
  SharedPart(std::shared_ptr<SharedMemory> memory, int self);

  // A buffer to be filled and lent. nullopt: there is no room at present.
  std::optional<Frame> allocate(std::size_t bytes);

  // Lends what `frame` holds to `peer`, too. nullopt: the frame is not from here, or the peer has no part in this memory or
  // has the same block already.
  std::optional<Place> lend(const Frame& frame, int peer);

  // Takes back everything lent to `peer`, which must not get anything any more.
  void forget(int peer);

 private:
  struct Block {
    std::size_t offset = 0, bytes = 0;  // with the head
  };
  SharedMemory::Holders& holders(const Block& block) const;

  std::shared_ptr<SharedMemory> memory_;
  int self_;
  std::byte* begin_;
  std::vector<Block> blocks_;  // by offset; not yet known to be free
};

}  // namespace tessera::transport
