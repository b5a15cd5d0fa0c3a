#include "plugins/distill/rounds.hpp"

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "base/check.hpp"
#include "base/text.hpp"
#include "data/pad_crop.hpp"
#include "wire/hash.hpp"

namespace tessera::distill {
namespace {

constexpr std::string_view kMagic = "TSGKT001";

std::uint64_t hash_of(std::string_view bytes) { return wire::content_hash(std::as_bytes(std::span(bytes))); }

// One list of what a state consists of, for both directions.
template <typename Archive, typename State>
void visit(Archive& archive, State& state) {
  const auto model = [&](auto& m) {
    archive.number(m.seen);
    archive.array(m.weights);
    archive.array(m.memory);
  };
  archive.number(state.seed);
  archive.number(state.setting);
  archive.number(state.round);
  archive.number(state.best);
  model(state.server);
  archive.each(state.edges, model);
  archive.each(state.ids, [&](auto& ids) { archive.array(ids); });
  archive.each(state.logits, [&](auto& logits) { archive.array(logits); });
  archive.array(state.csv);
}

struct Writer {
  std::string bytes;
  void number(const auto& value) { bytes.append(reinterpret_cast<const char*>(&value), sizeof value); }
  void array(const auto& values) {
    number(std::uint64_t{values.size()});
    bytes.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof values[0]);
  }
  void each(const auto& parts, auto&& visit_part) {
    number(std::uint64_t{parts.size()});
    for (const auto& part : parts) visit_part(part);
  }
};

// The bytes' hash has been seen to be right: sizes are those that were written, and checked all the same.
struct Reader {
  std::string_view rest;
  bool good = true;
  void take(void* to, std::size_t count) {
    good = good && count <= rest.size();
    if (!good || count == 0) return;
    std::memcpy(to, rest.data(), count);
    rest.remove_prefix(count);
  }
  void number(auto& value) { take(&value, sizeof value); }
  void array(auto& values) {
    std::uint64_t count = 0;
    number(count);
    good = good && count <= rest.size() / sizeof values[0];
    if (!good) return;
    values.resize(count);
    take(values.data(), count * sizeof values[0]);
  }
  void each(auto& parts, auto&& visit_part) {
    std::uint64_t count = 0;
    number(count);
    good = good && count <= rest.size();
    if (!good) return;
    parts.resize(count);
    for (auto& part : parts) visit_part(part);
  }
};

}  // namespace

int GktSettings::server_epochs_of(int round) const {
  const std::size_t last = server_epochs.size() - 1;
  return server_epochs[std::min(last, static_cast<std::size_t>(round - 1))];
}

base::Result<GktSettings> read_gkt_section(const cfg::CfgFile& file) {
  const cfg::CfgSection& section = file.sections.back();
  const auto fail = [&](const char* key, const std::string& what) {
    return base::error(base::ErrorCode::kInvalidArgument, "{}:{}: {}={}: {}", file.path, section.line_of(key), key, section.text(key, ""),
                       what);
  };
  GktSettings s;
  s.edge = section.text("edge", "");
  s.edges = static_cast<int>(section.integer("edges", s.edges));
  s.lda = section.real("lda", s.lda);
  s.rounds = static_cast<int>(section.integer("rounds", s.rounds));
  s.edge_epochs = static_cast<int>(section.integer("edge_epochs", s.edge_epochs));
  s.temperature = static_cast<float>(section.real("temperature", s.temperature));
  s.alpha = static_cast<float>(section.real("alpha", s.alpha));
  s.average = section.integer("average", 1) != 0;
  s.images = section.integer("images", 0);
  s.valid_images = section.integer("valid_images", 0);
  if (!(s.temperature > 0)) return fail("temperature", "must be above 0");
  if (!(s.alpha >= 0)) return fail("alpha", "must not be negative");
  if (!(s.lda >= 0)) return fail("lda", "must be above 0, or 0 for the same mixture on every edge");
  if (section.find("server_epochs")) {
    s.server_epochs.clear();
    for (const std::string& part : base::split(section.text("server_epochs", ""), ',')) {
      s.server_epochs.push_back(static_cast<int>(*base::to_integer(part)));
      if (s.server_epochs.back() < 1) return fail("server_epochs", "must be numbers of at least 1");
    }
  }
  const std::string transfer = section.text("transfer", "both"), method = section.text("method", "gkt"),
                    match = section.text("match", "id"), logits = section.text("logits", "eval"),
                    features = section.text("features", "fp32");
  if (transfer != "both" && transfer != "up" && transfer != "down" && transfer != "none")
    return fail("transfer", "write both, up, down or none");
  if (method != "gkt" && method != "fedavg") return fail("method", "write gkt or fedavg");
  if (match != "id" && match != "index") return fail("match", "write id or index");
  if (logits != "eval" && logits != "train") return fail("logits", "write eval or train");
  if (features != "fp32") return fail("features", "only fp32 is there");
  s.up = transfer == "both" || transfer == "up";
  s.down = transfer == "both" || transfer == "down";
  s.fedavg = method == "fedavg";
  s.by_index = match == "index";
  s.train_logits = logits == "train";
  if (!s.fedavg && s.edge.empty())
    return base::error(base::ErrorCode::kInvalidArgument, "{}:{}: [gkt] needs edge=, the cfg of the edges' network", file.path,
                       section.line);
  s.edge = (std::filesystem::path(file.path).parent_path() / s.edge).string();
  return s;
}

std::vector<std::uint64_t> epoch_order(std::span<const std::uint64_t> ids, std::uint64_t seed, std::uint64_t epoch) {
  std::vector<std::uint64_t> order;
  for (std::size_t i = 0; i < ids.size(); ++i) order.push_back(ids[data::shuffled(seed, epoch, i, ids.size())]);
  return order;
}

std::uint64_t teacher_of(const GktSettings& settings, std::span<const std::uint64_t> order, std::span<const std::uint64_t> before,
                         std::size_t position) {
  return settings.by_index && position < before.size() ? before[position] : order[position];
}

std::vector<float> weighted_mean(const std::vector<std::vector<float>>& parts, const std::vector<double>& weights) {
  TESSERA_CHECK(!parts.empty() && parts.size() == weights.size(), "parts={} weights={}", parts.size(), weights.size());
  std::vector<float> mean;
  double total = 0;
  for (const double weight : weights) total += weight;
  for (std::size_t i = 0; i < parts[0].size(); ++i) {
    double sum = 0;
    for (std::size_t k = 0; k < parts.size(); ++k) sum += weights[k] * parts[k][i];
    mean.push_back(static_cast<float>(sum / total));
  }
  return mean;
}

std::string to_bytes(const GktState& state) {
  Writer writer;
  visit(writer, state);
  const std::uint64_t hash = hash_of(writer.bytes);
  return std::string(kMagic) + std::string(reinterpret_cast<const char*>(&hash), sizeof hash) + writer.bytes;
}

base::Result<GktState> parse_gkt_state(std::string_view bytes, const std::string& name) {
  std::uint64_t hash = 0;
  GktState state;
  if (bytes.size() >= kMagic.size() + sizeof hash && bytes.starts_with(kMagic)) {
    std::memcpy(&hash, bytes.data() + kMagic.size(), sizeof hash);
    Reader reader{bytes.substr(kMagic.size() + sizeof hash)};
    if (hash == hash_of(reader.rest)) {
      visit(reader, state);
      if (reader.good && reader.rest.empty()) return state;
    }
  }
  return base::error(base::ErrorCode::kInvalidArgument, "{}: is damaged or no state of a [gkt] training; remove it to start again", name);
}

}  // namespace tessera::distill
