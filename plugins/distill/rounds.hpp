// Group knowledge transfer (FedGKT, arXiv:2007.14513) without networks: settings, the order of the server's samples, who learns
// from whose logits, averages, and the state between two rounds.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/result.hpp"
#include "cfg/cfg_file.hpp"

namespace tessera::distill {

// [gkt], the last section of the server's cfg. Batch and optimiser are those of each network's own [net].
struct GktSettings {
  std::string edge;  // cfg of the edges' network, from the cfg's folder
  int edges = 8;     // over which the tool divides the training pictures
  double lda = 0;    // Dirichlet parameter of that division; 0: the same mixture for all
  int rounds = 20, edge_epochs = 1;
  std::vector<int> server_epochs = {5};  // by round, the last for all that follow
  float temperature = 3, alpha = 1;
  bool up = true, down = true;        // transfer=both|up|down|none: who learns from the other's logits
  bool average = true;                // the edges' networks, after every round, weighted by their pictures
  bool fedavg = false;                // method=fedavg: this cfg's own network on the edges, no server (edges=1: centralised)
  bool by_index = false;              // match=index: as the public code does, logits by position in a shuffled order
  bool train_logits = false;          // logits=train: as the public code does, collected in training mode in mid-epoch
  long images = 0, valid_images = 0;  // the first of a seeded order; 0: all

  int server_epochs_of(int round) const;  // from 1
};

// Forms of values were checked with the cfg; errors name file and line.
[[nodiscard]] base::Result<GktSettings> read_gkt_section(const cfg::CfgFile& file);

// What an edge sends for its samples, and what comes back for them, both by the sample's number in the whole set.
struct Knowledge {
  std::vector<float> features, logits;
};
using Store = std::unordered_map<std::uint64_t, Knowledge>;

// Of these numbers, every one once, in the order of this epoch.
std::vector<std::uint64_t> epoch_order(std::span<const std::uint64_t> ids, std::uint64_t seed, std::uint64_t epoch);

// The sample whose logits sample `order[position]` learns from: itself; or, by index, whoever stood there in the order before.
std::uint64_t teacher_of(const GktSettings& settings, std::span<const std::uint64_t> order, std::span<const std::uint64_t> before,
                         std::size_t position);

// Σ weight · part / Σ weight, element by element, in this order.
std::vector<float> weighted_mean(const std::vector<std::vector<float>>& parts, const std::vector<double>& weights);

// A network between two rounds.
struct ModelState {
  std::uint64_t seen = 0;
  std::vector<float> weights;
  std::string memory;  // momentum or moments (weights_file.hpp)
  bool operator==(const ModelState&) const = default;
};

// Everything that round `round` + 1 depends on, beside the files and the cfg.
struct GktState {
  std::uint64_t seed = 1, setting = 0;  // hash of the settings and cfgs
  std::int32_t round = 0;
  ModelState server;
  std::vector<ModelState> edges;
  std::vector<std::vector<std::uint64_t>> ids;  // of every edge's logits
  std::vector<std::vector<float>> logits;
  double best = -1;
  std::string csv;
  bool operator==(const GktState&) const = default;
};

std::string to_bytes(const GktState& state);
// A damaged file, or one cut off, is an error that names it.
[[nodiscard]] base::Result<GktState> parse_gkt_state(std::string_view bytes, const std::string& name);

}  // namespace tessera::distill
