// Compiled with fused multiply-add (Makefile), like OpenBLAS's products.
#include "kernels/winograd_product.hpp"

#include <cstring>

namespace tessera::kernels {
namespace {

typedef float Wide __attribute__((vector_size(kProductVector * sizeof(float))));

// Sums stay in registers, 3 vectors for each row: AVX-512 and AArch64 have 32 registers, others 16.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRows = 8;
#else
constexpr int kRows = 4;
#endif
constexpr int kVectors = 3;

// The loops over sums are unrolled wholly, or these would be kept in memory.
template <int kColumns>
void multiply_block(const float* weights, Index depth, const float* source, Index source_stride, float* products, Index product_stride) {
  Wide sums[kRows][kColumns] = {};
  for (Index d = 0; d < depth; ++d, weights += kStrip, source += source_stride) {
    Wide cells[kColumns];
#pragma GCC unroll 4
    for (int i = 0; i < kColumns; ++i) std::memcpy(&cells[i], source + i * kProductVector, sizeof cells[i]);
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row)
#pragma GCC unroll 4
      for (int i = 0; i < kColumns; ++i) sums[row][i] += weights[row] * cells[i];
  }
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row)
#pragma GCC unroll 4
    for (int i = 0; i < kColumns; ++i)
      std::memcpy(products + row * product_stride + i * kProductVector, &sums[row][i], sizeof sums[row][i]);
}

}  // namespace

bool product_is_fast() {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return true;
#else
  return false;
#endif
}

void multiply_strips(const float* weights, Index rows, Index depth, const float* source, Index source_stride, Index columns,
                     float* products, Index product_stride) {
  for (Index column = 0; column < columns; column += kVectors * kProductVector)
    for (Index row = 0; row < rows; row += kRows) {
      const float* strip = weights + row / kStrip * kStrip * depth + row % kStrip;
      float* to = products + row * product_stride + column;
      switch ((columns - column) / kProductVector) {
        case 1:
          multiply_block<1>(strip, depth, source + column, source_stride, to, product_stride);
          break;
        case 2:
          multiply_block<2>(strip, depth, source + column, source_stride, to, product_stride);
          break;
        default:
          multiply_block<kVectors>(strip, depth, source + column, source_stride, to, product_stride);
      }
    }
}

}  // namespace tessera::kernels
