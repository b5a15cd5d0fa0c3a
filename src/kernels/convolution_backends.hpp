// What each backend file provides to make_convolution(). Internal.
#pragma once

#include <functional>
#include <string>

#include "base/check.hpp"
#include "kernels/convolution.hpp"

namespace tessera::kernels {

// Preconditions of the three passes, checked by every backend with the box named in the message.
void check_forward(const ConvolutionShape& shape, const ConstFloatView& input, const FloatView& output, const Box& compute);
void check_backward_data(const ConvolutionShape& shape, const ConstFloatView& delta_out, const FloatView& delta_in, const Box& compute);
void check_backward_weights(const ConvolutionShape& shape, const ConstFloatView& input, const ConstFloatView& delta_out,
                            const Box& delta_box);

// convolution_grouped.cpp: layers with groups, each group by `make` of its own shape, or, with one input channel a group
// (depth-wise), directly.
using MakeGroup = std::function<std::unique_ptr<Convolution>(const ConvolutionShape& group)>;
std::unique_ptr<Convolution> make_grouped_convolution(Backend backend, const ConvolutionShape& shape, base::ThreadPool& pool,
                                                      const MakeGroup& make);

std::unique_ptr<Convolution> make_reference_convolution(const ConvolutionShape& shape, base::ThreadPool& pool);
std::string blas_version();
// Whether the matrix products copy nothing: kernel 1, stride 1, pad 0.
bool columns_are_input(const ConvolutionShape& shape);
// `backend`: for which this computes the layer, kBlas or another that leaves such layers to BLAS.
std::unique_ptr<Convolution> make_blas_convolution(Backend backend, const ConvolutionShape& shape, base::ThreadPool& pool,
                                                   Scratch& scratch);

// convolution_winograd.cpp: forward and backward data of a 3x3 layer with stride 1 where that is faster than what `inner` does,
// by the size of the box and its channels alone. Other layers come back as they are.
std::unique_ptr<Convolution> with_winograd(std::unique_ptr<Convolution> inner, base::ThreadPool& pool, Scratch& scratch);
inline constexpr Index kWinogradLeastChannels = 32;
std::string winograd_version();
// Whether a call goes that way: the box to be computed, and the channels that are summed over.
bool winograd_pays(const Box& compute, Index depth);

// convolution_onednn.cpp, or convolution_onednn_absent.cpp where the library is not used (then built is false and
// make returns null).
bool onednn_built();
std::string onednn_version();  // empty when it is not built
std::unique_ptr<Convolution> make_onednn_convolution(const ConvolutionShape& shape, base::ThreadPool& pool, Scratch& scratch,
                                                     bool keep_packed);

}  // namespace tessera::kernels
