#include "plugins/distill/gkt.hpp"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <optional>
#include <unordered_map>

#include "base/clock.hpp"
#include "base/text.hpp"
#include "darknet/training/exit_codes.hpp"
#include "darknet/training/interrupt.hpp"
#include "darknet/upstream/weights_file.hpp"
#include "darknet/upstream/weights_layout.hpp"
#include "data/classifier_data.hpp"
#include "data/pad_crop.hpp"
#include "data/partition.hpp"
#include "observe/chart.hpp"
#include "plugins/distill/distill_layer.hpp"
#include "plugins/distill/rounds.hpp"
#include "wire/hash.hpp"

namespace tessera::distill {
namespace {

using base::ErrorCode;
using darknet::LayoutUse;
using Ids = std::vector<std::uint64_t>;
using Made = std::function<base::Status(std::uint64_t id, std::size_t position, float* input, float* truth)>;

// A Darknet network of which rounds need: a batch at a time, and its state as values.
class Model {
 public:
  Model(network* net, const GktSettings& settings) : net_(net) { install(net, {settings.temperature, settings.alpha}); }

  int classes() const { return net_->outputs; }
  network* net() { return net_; }

  // An epoch over these samples; the last batch is filled up from the beginning. The average loss.
  base::Result<double> train(const Ids& order, const Made& make, const std::function<void(std::uint64_t, const float*)>& logits = {}) {
    const layer& last = net_->layers[net_->n - 1];
    const auto batch = static_cast<std::size_t>(net_->batch);
    double loss = 0;
    std::size_t batches = 0;
    for (std::size_t from = 0; from < order.size(); from += batch, ++batches) {
      TESSERA_TRY(fill(order, from, make));
      train_network_datum(net_);
      follow_statistics();
      if (!std::isfinite(last.cost[0]))
        return base::error(ErrorCode::kNotFinite, "the loss is no number any more ({}); lower learning_rate",
                           darknet::first_bad_layer(net_));
      loss += static_cast<double>(last.cost[0]) / static_cast<double>(batch);
      if (logits) each_row(order, from, [&](std::uint64_t id, std::size_t row) { logits(id, output(net_->n - 2, row)); });
    }
    return loss / static_cast<double>(batches);
  }

  // Forward in evaluation mode; `take` gets the sample and its row of the batch.
  base::Status infer(const Ids& order, const Made& make, const std::function<void(std::uint64_t, std::size_t)>& take) {
    net_->train = 0;
    for (std::size_t from = 0; from < order.size(); from += static_cast<std::size_t>(net_->batch)) {
      TESSERA_TRY(fill(order, from, make));
      forward_network(net_);
      each_row(order, from, take);
    }
    return {};
  }

  const float* output(int layer, std::size_t row) const {
    return net_->layers[layer].output + row * static_cast<std::size_t>(net_->layers[layer].outputs);
  }

  ModelState state() const {
    ModelState state{*net_->seen, {}, darknet::momentum_image(net_)};
    for (int i = 0; i < net_->n; ++i)
      for (const darknet::WeightBlock& block : weight_blocks(net_->layers[i], LayoutUse::kSave))
        state.weights.insert(state.weights.end(), block.values, block.values + block.count);
    return state;
  }

  base::Status set(const ModelState& state) {
    std::size_t at = 0, count = 0;
    for (int i = 0; i < net_->n; ++i)
      for (const darknet::WeightBlock& block : weight_blocks(net_->layers[i], LayoutUse::kSave)) count += block.count;
    if (count != state.weights.size())
      return base::error(ErrorCode::kInvalidArgument, "a state of {} weights does not fit a network of {}", state.weights.size(), count);
    for (int i = 0; i < net_->n; ++i)
      for (const darknet::WeightBlock& block : weight_blocks(net_->layers[i], LayoutUse::kSave)) {
        std::copy_n(state.weights.begin() + static_cast<std::ptrdiff_t>(at), block.count, block.values);
        at += block.count;
      }
    *net_->seen = state.seen;
    return darknet::load_momentum(net_, state.memory, "state");
  }

 private:
  base::Status fill(const Ids& order, std::size_t from, const Made& make) {
    std::fill_n(net_->input, static_cast<std::size_t>(net_->batch) * static_cast<std::size_t>(net_->inputs), 0.0f);
    std::fill_n(net_->truth, static_cast<std::size_t>(net_->batch) * static_cast<std::size_t>(net_->truths), 0.0f);
    for (std::size_t row = 0; row < static_cast<std::size_t>(net_->batch); ++row) {
      const std::size_t position = (from + row) % order.size();
      TESSERA_TRY(make(order[position], position, net_->input + row * static_cast<std::size_t>(net_->inputs),
                       net_->truth + row * static_cast<std::size_t>(net_->truths)));
    }
    return {};
  }

  void each_row(const Ids& order, std::size_t from, const auto& take) {
    for (std::size_t row = 0; row < static_cast<std::size_t>(net_->batch) && from + row < order.size(); ++row) take(order[from + row], row);
  }

  // Upstream's running statistics start at 0 and move by a hundredth: useless after one short epoch. These start at the first
  // batch's and move by a tenth.
  void follow_statistics() {
    const float rate = std::max(0.09f, 1.0f / static_cast<float>(std::max(1, *net_->t)));
    for (int i = 0; i < net_->n; ++i) {
      const layer& l = net_->layers[i];
      if (!l.batch_normalize || !l.rolling_mean) continue;
      for (int c = 0; c < l.out_c; ++c) {
        l.rolling_mean[c] += rate * (l.mean[c] - l.rolling_mean[c]);
        l.rolling_variance[c] += rate * (l.variance[c] - l.rolling_variance[c]);
      }
    }
  }

  network* net_;
};

std::size_t best_of(const float* values, int classes) {
  return static_cast<std::size_t>(std::max_element(values, values + classes) - values);
}

Ids first_of(std::size_t count, long most, std::uint64_t seed) {
  Ids ids(most > 0 ? std::min(count, static_cast<std::size_t>(most)) : count);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = data::shuffled(seed, 0, i, count);
  std::sort(ids.begin(), ids.end());
  return ids;
}

class Training {
 public:
  Training(const GktRun& run, const GktSettings& settings, Model& edge, Model* server, std::optional<data::PadCrop> augment)
      : run_(run), settings_(settings), edge_(edge), server_(server), augment_(augment) {}

  base::Result<int> go(std::uint64_t setting);

 private:
  base::Status divide();
  base::Status start(std::uint64_t setting);
  base::Status edge_turn(std::size_t edge, int round, Store& store, double& loss);
  base::Status server_turn(int round, const Store& store, double& loss);
  void average();
  // Accuracy of the server (or, without one, of the edges' network) and of the edges.
  base::Result<std::pair<double, double>> measure(const data::ImageSet& images, const Ids& ids);
  base::Status save(double precision, const std::string& prefix);
  base::Status picture(const data::ImageSet& set, std::uint64_t id, int round, float* input);

  const GktRun& run_;
  const GktSettings& settings_;
  Model& edge_;
  Model* server_;
  std::optional<data::PadCrop> augment_;
  std::vector<Ids> parts_;
  GktState state_;
  observe::ChartData chart_;
};

base::Status Training::divide() {
  const Ids all = first_of(run_.train->size(), settings_.images, run_.seed);
  std::vector<int> classes;
  for (const std::uint64_t id : all) classes.push_back(run_.train->class_of(id));
  TESSERA_ASSIGN(const data::Partition parts, data::partition(classes, {settings_.edges, settings_.lda, run_.seed, 1}));
  for (const auto& part : parts) {
    Ids& ids = parts_.emplace_back();
    for (const std::size_t i : part) ids.push_back(all[i]);
    const auto [least, most] = std::minmax_element(
        ids.begin(), ids.end(), [&](std::uint64_t a, std::uint64_t b) { return run_.train->class_of(a) < run_.train->class_of(b); });
    const std::size_t number = parts_.size() - 1, batch = static_cast<std::size_t>(edge_.net()->batch);
    if (ids.empty()) return base::error(ErrorCode::kInvalidArgument, "edge {} has no pictures; lower edges=, or raise lda=", number);
    if (run_.train->class_of(*least) == run_.train->class_of(*most)) fmt::print("edge {}: has pictures of one class only\n", number);
    if (ids.size() < batch)
      fmt::print("edge {}: has {} pictures, fewer than a batch of {}; they are repeated in it\n", number, ids.size(), batch);
  }
  return {};
}

base::Status Training::start(std::uint64_t setting) {
  const std::string path = fmt::format("{}/{}.gkt", run_.data.backup, base::base_name(run_.cfg_path));
  if (run_.resume && std::filesystem::is_regular_file(path)) {
    std::ifstream file(path, std::ios::binary);
    TESSERA_ASSIGN(state_, parse_gkt_state(std::string{std::istreambuf_iterator<char>(file), {}}, path));
    if (state_.setting != setting || state_.edges.size() != parts_.size())
      return base::error(ErrorCode::kInvalidArgument, "{}: belongs to other cfgs, another seed or other pictures; train without -resume",
                         path);
    fmt::print("-resume: round {} of {} is done\n", state_.round, settings_.rounds);
    return server_ ? server_->set(state_.server) : base::Status();
  }
  state_.seed = run_.seed, state_.setting = setting;
  state_.edges.assign(parts_.size(), edge_.state());
  state_.ids.resize(parts_.size());
  state_.logits.resize(parts_.size());
  state_.csv = "round,server_accuracy,edge_accuracy,server_loss,edge_loss,up_bytes,down_bytes,edge_seconds,server_seconds\n";
  return {};
}

base::Status Training::picture(const data::ImageSet& set, std::uint64_t id, int round, float* input) {
  const network& net = *edge_.net();
  TESSERA_ASSIGN(const cv::Mat image, set.picture(id));
  data::center_crop(image, net.c, net.w, net.h, input);
  if (augment_ && &set == run_.train)
    data::pad_crop(*augment_, run_.seed, id, static_cast<std::uint64_t>(round), net.c, net.h, net.w, input);
  return {};
}

// Trains on the pictures that the server's logits describe, those of the round before, and describes this round's.
base::Status Training::edge_turn(std::size_t edge, int round, Store& store, double& loss) {
  TESSERA_TRY(edge_.set(state_.edges[edge]));
  const auto classes = static_cast<std::size_t>(edge_.classes());
  std::unordered_map<std::uint64_t, const float*> taught;
  for (std::size_t i = 0; i < state_.ids[edge].size(); ++i) taught[state_.ids[edge][i]] = state_.logits[edge].data() + i * classes;
  const std::uint64_t seed = run_.seed * 1000003 + edge;
  const auto epoch_number = [&](int r, int epoch) {
    return static_cast<std::uint64_t>(r) * static_cast<std::uint64_t>(settings_.edge_epochs) + static_cast<std::uint64_t>(epoch);
  };
  const Ids before = epoch_order(parts_[edge], seed, epoch_number(round - 1, settings_.edge_epochs - 1));
  for (int epoch = 0; epoch < settings_.edge_epochs; ++epoch) {
    const Ids order = epoch_order(parts_[edge], seed, epoch_number(round, epoch));
    const Made make = [&](std::uint64_t id, std::size_t position, float* input, float* truth) -> base::Status {
      truth[run_.train->class_of(id)] = 1;
      const auto teacher = taught.find(teacher_of(settings_, order, before, position));
      if (settings_.down && teacher != taught.end()) std::copy_n(teacher->second, classes, truth + classes), truth[2 * classes] = 1;
      return picture(*run_.train, id, round - 1, input);
    };
    TESSERA_ASSIGN(loss, edge_.train(order, make));
  }
  state_.edges[edge] = edge_.state();
  if (!server_) return {};
  const Made make = [&](std::uint64_t id, std::size_t, float* input, float*) { return picture(*run_.train, id, round, input); };
  return edge_.infer(parts_[edge], make, [&](std::uint64_t id, std::size_t row) {
    const float *features = edge_.output(0, row), *logits = edge_.output(edge_.net()->n - 2, row);
    store[id] = {{features, features + edge_.net()->layers[0].outputs}, {logits, logits + classes}};
  });
}

base::Status Training::server_turn(int round, const Store& store, double& loss) {
  const auto classes = static_cast<std::size_t>(server_->classes());
  Ids all;
  for (const Ids& part : parts_) all.insert(all.end(), part.begin(), part.end());
  const Made make = [&](std::uint64_t id, std::size_t, float* input, float* truth) -> base::Status {
    const Knowledge& from = store.at(id);
    std::copy(from.features.begin(), from.features.end(), input);
    truth[run_.train->class_of(id)] = 1;
    if (settings_.up) std::copy(from.logits.begin(), from.logits.end(), truth + classes), truth[2 * classes] = 1;
    return {};
  };
  std::unordered_map<std::uint64_t, std::vector<float>> answers;
  const auto answer = [&](std::uint64_t id, const float* logits) { answers[id].assign(logits, logits + classes); };
  const int epochs = settings_.server_epochs_of(round);
  for (int epoch = 0; epoch < epochs; ++epoch) {
    const Ids order = epoch_order(all, run_.seed, static_cast<std::uint64_t>(round) * 100000 + static_cast<std::uint64_t>(epoch));
    const bool collect = settings_.train_logits && epoch == epochs - 1;
    TESSERA_ASSIGN(loss, server_->train(order, make, collect ? answer : std::function<void(std::uint64_t, const float*)>()));
  }
  if (!settings_.train_logits)
    TESSERA_TRY(
        server_->infer(all, make, [&](std::uint64_t id, std::size_t row) { answer(id, server_->output(server_->net()->n - 2, row)); }));
  for (std::size_t edge = 0; edge < parts_.size(); ++edge) {
    state_.ids[edge] = parts_[edge];
    state_.logits[edge].clear();
    for (const std::uint64_t id : parts_[edge])
      state_.logits[edge].insert(state_.logits[edge].end(), answers[id].begin(), answers[id].end());
  }
  state_.server = server_->state();
  return {};
}

void Training::average() {
  std::vector<std::vector<float>> weights;
  std::vector<double> counts;
  for (std::size_t edge = 0; edge < parts_.size(); ++edge) {
    weights.push_back(state_.edges[edge].weights);
    counts.push_back(static_cast<double>(parts_[edge].size()));
  }
  const std::vector<float> mean = weighted_mean(weights, counts);
  for (ModelState& edge : state_.edges) edge.weights = mean;
}

// Pictures go round the edges; when their networks are averaged those are all the same.
base::Result<std::pair<double, double>> Training::measure(const data::ImageSet& images, const Ids& ids) {
  std::size_t right = 0, right_edge = 0;
  const bool one = settings_.average || settings_.fedavg;
  const std::size_t edges = one ? 1 : parts_.size();
  for (std::size_t edge = 0; edge < edges; ++edge) {
    Ids mine;
    for (std::size_t i = edge; i < ids.size(); i += edges) mine.push_back(ids[i]);
    if (mine.empty()) continue;
    TESSERA_TRY(edge_.set(state_.edges[edge]));
    Store features;
    const Made make = [&](std::uint64_t id, std::size_t, float* input, float*) { return picture(images, id, 0, input); };
    TESSERA_TRY(edge_.infer(mine, make, [&](std::uint64_t id, std::size_t row) {
      right_edge += best_of(edge_.output(edge_.net()->n - 2, row), edge_.classes()) == static_cast<std::size_t>(images.class_of(id));
      if (server_) features[id].features.assign(edge_.output(0, row), edge_.output(0, row) + edge_.net()->layers[0].outputs);
    }));
    if (!server_) continue;
    const Made given = [&](std::uint64_t id, std::size_t, float* input, float*) -> base::Status {
      std::copy(features.at(id).features.begin(), features.at(id).features.end(), input);
      return {};
    };
    TESSERA_TRY(server_->infer(mine, given, [&](std::uint64_t id, std::size_t row) {
      right += best_of(server_->output(server_->net()->n - 2, row), server_->classes()) == static_cast<std::size_t>(images.class_of(id));
    }));
  }
  const double count = static_cast<double>(ids.size()), small = static_cast<double>(right_edge) / count;
  return std::pair{server_ ? static_cast<double>(right) / count : small, small};
}

base::Status Training::save(double precision, const std::string& prefix) {
  if (precision > state_.best) {
    state_.best = precision;
    TESSERA_TRY(edge_.set(state_.edges[0]));
    const std::string edge = server_ ? run_.data.backup + "/" + base::base_name(settings_.edge) : prefix;
    TESSERA_TRY(darknet::save_weights_file(edge_.net(), edge + "_best.weights"));
    if (server_) TESSERA_TRY(darknet::save_weights_file(server_->net(), prefix + "_best.weights"));
  }
  TESSERA_TRY(base::write_file_atomically(prefix + "_rounds.csv", state_.csv));
  TESSERA_TRY(observe::write_chart(chart_, prefix + "_rounds.png"));
  return base::write_file_atomically(prefix + ".gkt", to_bytes(state_));
}

base::Result<int> Training::go(std::uint64_t setting) {
  TESSERA_TRY(divide());
  TESSERA_TRY(start(setting));
  const std::string prefix = run_.data.backup + "/" + base::base_name(run_.cfg_path);
  const Ids valid = first_of(run_.valid->size(), settings_.valid_images, run_.seed);
  chart_ = {base::base_name(run_.cfg_path), static_cast<std::uint64_t>(settings_.rounds), {}, {}, "accuracy"};
  const darknet::InterruptGuard guard;
  while (state_.round < settings_.rounds) {
    const int round = state_.round + 1;
    const base::TimePoint begin = base::Clock::now();
    Store store;
    double edge_loss = 0, server_loss = 0;
    for (std::size_t edge = 0; edge < parts_.size(); ++edge) {
      double loss = 0;
      TESSERA_TRY(edge_turn(edge, round, store, loss));
      edge_loss += loss / static_cast<double>(parts_.size());
      fmt::print("round {} edge {}: {} pictures, loss {:.4f}\n", round, edge, parts_[edge].size(), loss);
      if (darknet::InterruptGuard::interrupted()) return darknet::kExitInterrupted;
    }
    const base::TimePoint middle = base::Clock::now();
    if (server_) TESSERA_TRY(server_turn(round, store, server_loss));
    if (settings_.average || settings_.fedavg) average();
    const base::TimePoint end = base::Clock::now();
    TESSERA_ASSIGN(const auto accuracy, measure(*run_.valid, valid));
    // What edges of their own would send and receive: features, logits, label and number of each sample; weights that are averaged.
    std::size_t samples = 0;
    for (const Ids& part : parts_) samples += part.size();
    const std::size_t row = 4 * static_cast<std::size_t>(edge_.classes()),
                      weights = settings_.average || settings_.fedavg ? 4 * state_.edges[0].weights.size() * parts_.size() : 0;
    const std::size_t up = weights + (server_ ? samples * (row + 12 + 4 * static_cast<std::size_t>(edge_.net()->layers[0].outputs)) : 0),
                      down = weights + (server_ ? samples * (row + 8) : 0);
    state_.round = round;
    state_.csv += fmt::format("{},{:.4f},{:.4f},{:.4f},{:.4f},{},{},{:.2f},{:.2f}\n", round, accuracy.first, accuracy.second, server_loss,
                              edge_loss, up, down, base::seconds_between(begin, middle), base::seconds_between(middle, end));
    chart_.loss.push_back({static_cast<std::uint64_t>(round), server_ ? server_loss : edge_loss});
    chart_.precision.push_back({static_cast<std::uint64_t>(round), accuracy.first});
    TESSERA_TRY(save(accuracy.first, prefix));
    fmt::print("round {} of {}: accuracy {:.2f}% server, {:.2f}% edge, loss {:.4f} server, {:.4f} edge\n", round, settings_.rounds,
               100 * accuracy.first, 100 * accuracy.second, server_loss, edge_loss);
    std::fflush(stdout);
    if (darknet::InterruptGuard::interrupted()) return darknet::kExitInterrupted;
  }
  if (!run_.test) return 0;
  const std::string edge = server_ ? run_.data.backup + "/" + base::base_name(settings_.edge) : prefix;
  TESSERA_TRY(darknet::load_weights_file(edge_.net(), edge + "_best.weights"));
  state_.edges.assign(parts_.size(), edge_.state());
  if (server_) TESSERA_TRY(darknet::load_weights_file(server_->net(), prefix + "_best.weights"));
  TESSERA_ASSIGN(const auto accuracy, measure(*run_.test, first_of(run_.test->size(), 0, run_.seed)));
  fmt::print("test: accuracy {:.2f}% server, {:.2f}% edge, of the round that was best on the validation pictures\n", 100 * accuracy.first,
             100 * accuracy.second);
  return 0;
}

// A network fit for rounds: logits, then [softmax].
base::Status check_network(const darknet::LoadedNetwork& loaded, std::size_t features) {
  const network& net = *loaded.net;
  const std::string& path = loaded.cfg.file.path;
  if (net.n < 2 || net.layers[net.n - 1].type != SOFTMAX)
    return base::error(ErrorCode::kInvalidArgument, "{}: its last layer must be [softmax] to be trained in rounds", path);
  if (net.subdivisions != 1) return base::error(ErrorCode::kInvalidArgument, "{}: write subdivisions=1 to train it in rounds", path);
  if (features && static_cast<std::size_t>(net.inputs) != features)
    return base::error(ErrorCode::kInvalidArgument, "{}: has {} inputs, but the edges' first layer gives {} features; make them equal",
                       path, net.inputs, features);
  return {};
}

}  // namespace

base::Result<int> train_gkt(darknet::LoadedNetwork& loaded, const GktRun& run) {
  TESSERA_ASSIGN(const GktSettings settings, read_gkt_section(loaded.cfg.file));
  std::optional<data::PadCrop> augment;
  if (!run.data.augment.empty()) {
    TESSERA_ASSIGN(augment, data::parse_pad_crop(run.data.augment));
  }
  darknet::LoadedNetwork small;
  if (!settings.fedavg) {
    TESSERA_ASSIGN(small, darknet::load_network_file(settings.edge, run.seed + 1));
    TESSERA_TRY(check_network(small, 0));
    if (small.net->outputs != loaded.net->outputs)
      return base::error(ErrorCode::kInvalidArgument, "{}: has {} classes, but {} has {}; make them equal", settings.edge,
                         small.net->outputs, run.cfg_path, loaded.net->outputs);
  }
  TESSERA_TRY(check_network(loaded, small.net ? static_cast<std::size_t>(small.net->layers[0].outputs) : 0));
  darknet::LoadedNetwork& on_edges = settings.fedavg ? loaded : small;
  if (on_edges.net->c != 3 && on_edges.net->c != 1)
    return base::error(ErrorCode::kInvalidArgument, "{}: channels={}, but pictures have 3, or 1 when grey", on_edges.cfg.file.path,
                       on_edges.net->c);
  Model edge(on_edges.net.get(), settings);
  std::optional<Model> server;
  if (!settings.fedavg) server.emplace(loaded.net.get(), settings);
  std::string key = fmt::format("{} {} {}", run.seed, run.data.train, run.data.augment);
  for (const cfg::CfgFile* file : {&loaded.cfg.file, &on_edges.cfg.file})
    for (const cfg::CfgSection& section : file->sections)
      for (const cfg::CfgOption& option : section.options)
        if (option.key != "rounds") key += fmt::format("|{}.{}={}", section.name, option.key, option.value);
  Training training(run, settings, edge, server ? &*server : nullptr, augment);
  return training.go(wire::content_hash(std::as_bytes(std::span(key))));
}

}  // namespace tessera::distill
