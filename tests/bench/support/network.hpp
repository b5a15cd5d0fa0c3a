// The networks that are measured: cfgs of this repository, cut and fitted to the generated pictures.
#pragma once

#include <string>
#include <vector>

#include "cfg/cfg_check.hpp"
#include "kernels/convolution.hpp"

namespace tessera::bench {

inline constexpr int kClasses = 3;

struct Network {
  std::string name, cfg;  // cfg: a file of the cfg folder
  int layers;             // how many are kept, with a detection head behind them; 0: all, with their own heads
  int size, batch;
  int workers;           // local workers in one variant of its training
  int subdivisions = 1;  // more: an update every so many passes; then our own variants are compared, stock is not waited for

  std::string title() const;
};

const std::vector<Network>& networks();

// Errors: there is none of this name.
[[nodiscard]] base::Result<Network> find_network(const std::string& name);

// The network without [distributed], to be trained for `iterations`, or, with batch 1 and no iterations, to be looked
// through. Errors: the file cannot be read or has fewer layers.
[[nodiscard]] base::Result<cfg::CfgFile> plain_cfg(const std::string& folder, const Network& network, int iterations);

using Options = std::vector<std::pair<std::string, std::string>>;

// `file` with a [distributed] section of these options over all layers that can be wrapped.
cfg::CfgFile distributed_cfg(cfg::CfgFile file, const Options& options);

std::string cfg_text(const cfg::CfgFile& file);

struct ConvolutionLayer {
  int layer = 0;  // its number in the network
  kernels::ConvolutionShape shape;
  long groups = 1;

  double forward_flops() const;  // of one sample: two per multiply-add
};

[[nodiscard]] base::Result<std::vector<ConvolutionLayer>> convolution_layers(const cfg::CfgFile& file);

// Operations of the convolutions in one training iteration of `batch` samples: forward and two backward passes, but
// nobody needs the gradient of the pictures. Or of one look through, forward only.
double training_flops(const std::vector<ConvolutionLayer>& layers, int batch);
double inference_flops(const std::vector<ConvolutionLayer>& layers, int batch);

}  // namespace tessera::bench
