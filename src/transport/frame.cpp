#include "transport/frame.hpp"

#include "base/check.hpp"

#include <atomic>
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

std::vector<Frame> Frame::share(Frame frame, std::size_t count) {
  TESSERA_CHECK(count > 0, "shared by nobody");
  struct Shared {
    Frame frame;
    std::atomic<std::size_t> left;
  };
  std::vector<Frame> frames;
  if (count == 1) {
    frames.push_back(std::move(frame));
    return frames;
  }
  std::byte* const data = frame.data();
  const std::size_t size = frame.size();
  auto* const shared = new Shared{std::move(frame), count};
  for (std::size_t i = 0; i < count; ++i)
    frames.push_back({data, size, shared, [](void* owner) {
                        auto* const ours = static_cast<Shared*>(owner);
                        if (ours->left.fetch_sub(1) == 1) delete ours;
                      }});
  return frames;
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
