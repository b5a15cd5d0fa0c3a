// Split training: every device trains the front of the network on its own samples up to a cut, a server the rest. Where each
// device is cut and what share of the server's link it gets, so that the slowest of them is as quick as can be (EdgeSplit,
// arXiv:2403.15815; the exact optimum is ours). Pure functions; seconds, bytes, operations and bytes per second.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "graph/graph.hpp"

namespace tessera::plan {

// The device has the first `depth` layers. Figures without "per sample" are for the device, whatever its batch.
struct SplitCut {
  int depth = 0;
  double work = 0;              // per sample, forward and backward, of the device
  double activation_bytes = 0;  // per sample, of all arrays that cross the cut; gradients of as many bytes come back
  double parameter_bytes = 0;   // of the layers in front: what is aggregated
  double memory_bytes = 0;      // weights, gradients, momentum ...
  double sample_memory_bytes = 0;
  bool allowed = true;
};

struct SplitNetwork {
  std::vector<SplitCut> cuts;  // by rising depth
  double work = 0;             // per sample, of the whole network
};

struct SplitDevice {
  std::string name;
  double speed = 1;       // operations per second
  double link = 0;        // of its own cable; 0: no narrower than the server's
  double memory = 0;      // 0: no limit
  int batch = 1;          // samples of its own in every round
  double efficiency = 1;  // share of the bandwidth that carries payload (a radio's spectral efficiency)
};

struct SplitSetting {
  double server_speed = 1;  // shared by all samples alike: a device's part runs at the share that its batch has of all samples
  double bandwidth = 1;     // of the server's link, divided among the devices
  double label_bytes = 0;   // per sample
  int sync_every = 1;       // rounds between two aggregations of the layers in front
  int least_depth = 1;      // fewer layers show too much of the picture
};

// T = computation + server + (upload + download), of one device; the last two at its share of the link.
struct SplitTimes {
  double computation = 0, upload = 0, server = 0, download = 0;
  double total() const { return computation + upload + server + download; }
};

struct SplitAssignment {
  std::vector<int> cuts;        // index into SplitNetwork::cuts, per device
  std::vector<double> shares;   // bytes per second, per device
  double seconds = 0;           // of a round: of the slowest device
  std::vector<double> history;  // `seconds` after each step of the alternation that led here; never rises
};

// Times of a device at a cut and share, by the latency model.
SplitTimes split_times(const SplitNetwork& network, const SplitSetting& setting, const SplitDevice& device, int samples, int cut,
                       double share);

// Whether the device may be cut there: it is a boundary, deep enough, and fits into memory.
bool is_feasible(const SplitNetwork& network, const SplitSetting& setting, const SplitDevice& device, int cut);

// The shares that are best for given cuts (every device without a narrower link of its own is done at the same moment).
SplitAssignment share_bandwidth(const SplitNetwork& network, const SplitSetting& setting, std::span<const SplitDevice> devices,
                                std::vector<int> cuts);

// The paper's algorithm: cuts for given shares, shares for given cuts, from equal shares until nothing improves. Where it stops
// at T, no cut is quicker than T at the device's own share, so none needs less than that share to be done in T: which is the
// optimum of this model. Errors of both: a device for which no cut is feasible, and why.
base::Result<SplitAssignment> alternate(const SplitNetwork& network, const SplitSetting& setting, std::span<const SplitDevice> devices);

// The optimum: whether a target time can be kept is one sum over the devices of the least bandwidth each needs for it.
base::Result<SplitAssignment> schedule_split(const SplitNetwork& network, const SplitSetting& setting,
                                             std::span<const SplitDevice> devices);

// Divides `global_batch` samples, at least one each, for the least round time; then as schedule_split. Sets the devices' batches.
// Exact up to devices x batch^2 of two million; beyond, sample by sample to the device that needs least more bandwidth for it,
// which was up to 8 % slower in small cases.
base::Result<SplitAssignment> schedule_batches(const SplitNetwork& network, const SplitSetting& setting, std::vector<SplitDevice>& devices,
                                               int global_batch);

// Every layer boundary of the graph. Not allowed are those where an input of the graph would cross.
// Work: 2 operations per multiply-add, forward and twice backward. Memory: one copy of activations and the two largest deltas
// per sample; weights, gradients and momentum.
SplitNetwork split_network(const graph::Graph& graph);

}  // namespace tessera::plan
