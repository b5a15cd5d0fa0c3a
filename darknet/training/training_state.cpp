#include "darknet/training/training_state.hpp"

#include <nlohmann/json.hpp>

namespace tessera::darknet {
namespace {

using nlohmann::json;

constexpr int kVersion = 1;

json to_pairs(const std::vector<observe::ChartPoint>& points) {
  json pairs = json::array();
  for (const observe::ChartPoint& point : points) pairs.push_back({point.iteration, point.value});
  return pairs;
}

std::vector<observe::ChartPoint> from_pairs(const json& pairs) {
  std::vector<observe::ChartPoint> points;
  for (const json& pair : pairs) points.push_back({pair.at(0).get<std::uint64_t>(), pair.at(1).get<double>()});
  return points;
}

}  // namespace

std::string to_json(const TrainingState& state) {
  return json{{"version", kVersion},
              {"seed", state.seed},
              {"weights_hash", fmt::format("{:016x}", state.weights_hash)},
              {"average_loss", state.average_loss},
              {"best_precision", state.best_precision},
              {"loss", to_pairs(state.loss)},
              {"precision", to_pairs(state.precision)}}
             .dump(1) +
         "\n";
}

base::Result<TrainingState> parse_training_state(const std::string& text, const std::string& name) {
  try {
    const json document = json::parse(text);
    if (document.at("version").get<int>() != kVersion)
      return base::error(base::ErrorCode::kInvalidArgument, "{}: is of version {}, this program writes version {}", name,
                         document.at("version").get<int>(), kVersion);
    TrainingState state;
    state.seed = document.at("seed").get<std::uint64_t>();
    state.weights_hash = std::stoull(document.at("weights_hash").get<std::string>(), nullptr, 16);
    state.average_loss = document.at("average_loss").get<double>();
    state.best_precision = document.at("best_precision").get<double>();
    state.loss = from_pairs(document.at("loss"));
    state.precision = from_pairs(document.at("precision"));
    return state;
  } catch (const std::exception& failure) {  // json's and stoull's errors: a damaged file, not a bug
    return base::error(base::ErrorCode::kInvalidArgument, "{}: is no training state: {}", name, failure.what());
  }
}

}  // namespace tessera::darknet
