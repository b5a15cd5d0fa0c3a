// Who of several edges has which pictures.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.hpp"

namespace tessera::data {

struct PartitionRequest {
  int edges = 1;
  // 0: every edge has the same mixture of classes. Else every class is divided in proportions drawn from a symmetric Dirichlet
  // distribution with this parameter (Hsu, Qi, Brown 2019): the smaller, the more unequal.
  double alpha = 0;
  std::uint64_t seed = 1;
  std::size_t least = 10;  // pictures of every edge: drawn again until it is so
};

// Numbers of samples, rising, by edge: every sample once.
using Partition = std::vector<std::vector<std::size_t>>;

// `classes`: of every sample. The same on every machine.
[[nodiscard]] base::Result<Partition> partition(const std::vector<int>& classes, const PartitionRequest& request);

// Samples of every class, by edge.
std::vector<std::vector<std::size_t>> class_counts(const Partition& partition, const std::vector<int>& classes, std::size_t labels);

}  // namespace tessera::data
