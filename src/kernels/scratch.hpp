// Temporary memory of kernels, shared by the layers of one device.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

namespace tessera::kernels {

inline constexpr std::size_t kAlignment = 64;  // cache line, and the widest vector in use

inline constexpr std::size_t align_up(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Contents do not survive from one kernel call to the next. Used by one kernel at a time.
class Scratch {
 public:
  // Makes at least `bytes` available; never shrinks. Throws std::bad_alloc.
  void reserve(std::size_t bytes);
  std::size_t bytes() const { return bytes_; }

  // kAlignment-aligned memory of at least `bytes`. Grows when reserve() was not told enough.
  std::byte* take(std::size_t bytes) {
    if (bytes > bytes_) reserve(bytes);
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(std::byte* memory) const { ::operator delete[](memory, std::align_val_t{kAlignment}); }
  };
  std::unique_ptr<std::byte[], Free> memory_;
  std::size_t bytes_ = 0;
};

}  // namespace tessera::kernels
