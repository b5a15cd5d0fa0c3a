#include "kernels/scratch.hpp"

namespace tessera::kernels {

void Scratch::reserve(std::size_t bytes) {
  if (bytes <= bytes_) return;
  memory_.reset();  // first, so that the old and the new memory never exist together
  bytes_ = 0;
  memory_.reset(static_cast<std::byte*>(::operator new[](align_up(bytes), std::align_val_t{kAlignment})));
  bytes_ = align_up(bytes);
}

}  // namespace tessera::kernels
