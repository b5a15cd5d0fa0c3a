#include "transport/frame.hpp"

#include "base/check.hpp"

#include <cstring>
#include <new>

namespace tessera::transport {

Frame Frame::allocate(std::size_t bytes) {
  if (bytes == 0) return {};
  constexpr std::align_val_t alignment{kFrameAlignment};
  void* memory = ::operator new(bytes, alignment);
  return {static_cast<std::byte*>(memory), bytes, memory,
          [](void* owner) { ::operator delete (owner, std::align_val_t{kFrameAlignment}); }};
}

Frame Frame::copy_of(std::span<const std::byte> bytes) {
  Frame frame = allocate(bytes.size());
  if (!bytes.empty()) std::memcpy(frame.data(), bytes.data(), bytes.size());
  return frame;
}

void Frame::shrink(std::size_t bytes) {
  TESSERA_CHECK(bytes <= size_, "bytes={} size={}", bytes, size_);
  size_ = bytes;
}

void Frame::reset() {
  if (release_ != nullptr) release_(owner_);
  data_ = nullptr;
  size_ = 0;
  owner_ = nullptr;
  release_ = nullptr;
}

}  // namespace tessera::transport
