// Sets that keep all pictures in a few files of bytes: IDX (MNIST, Fashion-MNIST) and CIFAR's binary batches.
#pragma once

#include "data/image_set.hpp"

namespace tessera::data {

// `kind`: idx, cifar10, cifar100, cifar100-coarse; `files`: what follows it (image_set.hpp). Held in memory as it lies in
// the files.
[[nodiscard]] base::Result<std::unique_ptr<ImageSet>> open_packed_images(const std::string& kind, const std::string& files,
                                                                         std::size_t labels);

// The bytes of IDX files.
std::string idx_images(std::size_t count, int rows, int columns, const std::string& pixels);
std::string idx_labels(const std::string& labels);

}  // namespace tessera::data
