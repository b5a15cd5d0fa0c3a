// Bytes on their way: one owning buffer that any transport can send, and hand to a receiver, without copying it.
#pragma once

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

namespace tessera::transport {

inline constexpr std::size_t kFrameAlignment = 64;

// Move-only. Whoever holds the frame owns the memory and may write to it, but for frames that share theirs.
// Alignment of bytes(): 64 for frames from allocate() and copy_of(), and for received frames of at most 8 KiB;
// larger received frames lie where the transport's library put them, aligned for float but not always for double.
class Frame {
 public:
  using Release = void (*)(void* owner);

  Frame() = default;
  // Takes memory owned by `owner`; release(owner) is called once, on any thread.
  Frame(std::byte* data, std::size_t size, void* owner, Release release) : data_(data), size_(size), owner_(owner), release_(release) {}
  ~Frame() { reset(); }
  Frame(Frame&& other) noexcept { swap(other); }
  Frame& operator=(Frame&& other) noexcept {
    Frame moved(std::move(other));
    swap(moved);
    return *this;
  }

  // Contents are not initialised. Throws std::bad_alloc like any allocation.
  static Frame allocate(std::size_t bytes);
  static Frame copy_of(std::span<const std::byte> bytes);

  // `count` frames (at least one) over the same memory, for as many receivers: read only.
  static std::vector<Frame> share(Frame frame, std::size_t count);

  std::span<std::byte> bytes() { return {data_, size_}; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }

  // Keeps the first `bytes` (at most size()).
  void shrink(std::size_t bytes);

 private:
  void reset();
  void swap(Frame& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(owner_, other.owner_);
    std::swap(release_, other.release_);
  }

  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  void* owner_ = nullptr;
  Release release_ = nullptr;
};

}  // namespace tessera::transport
