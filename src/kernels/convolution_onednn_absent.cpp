// Stands in for convolution_onednn.cpp where oneDNN is not installed or not wanted.
#include "kernels/convolution_backends.hpp"

namespace tessera::kernels {

bool onednn_built() { return false; }
std::string onednn_version() { return {}; }

std::unique_ptr<Convolution> make_onednn_convolution(const ConvolutionShape&, base::ThreadPool&, Scratch&, bool) { return nullptr; }

}  // namespace tessera::kernels
