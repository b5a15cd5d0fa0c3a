#include "darknet/commands/training_options.hpp"

#include <algorithm>
#include <thread>

#include "base/text.hpp"

namespace tessera::darknet {

TrainingOptions training_options(const Arguments& arguments, const std::string& backup, const std::string& cfg, std::uint64_t seed) {
  TrainingOptions options;
  options.backup = backup;
  options.name = base::base_name(cfg);
  options.log = arguments.text("log");
  options.seed = seed;
  options.loader_threads = static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, 8u));
  options.verbose = arguments.has("verbose");
  return options;
}

std::uint64_t test_interval(const Arguments& arguments, std::size_t images, std::uint64_t rows) {
  if (!arguments.has("map")) return 0;
  const std::uint64_t epoch = (images + rows - 1) / rows;
  return static_cast<std::uint64_t>(std::max(1L, arguments.integer("map_every", static_cast<long>(std::max<std::uint64_t>(100, epoch)))));
}

base::Result<ResumePoint> resume_point(const std::string& weights, const Arguments& arguments, const std::string& backup,
                                       const std::string& cfg) {
  const long seed = arguments.integer("seed", 1);
  if (seed < 0) return base::error(base::ErrorCode::kInvalidArgument, "-seed {}: must not be negative", seed);
  if (arguments.has("clear") && arguments.has("resume"))
    return base::error(base::ErrorCode::kInvalidArgument, "-resume goes on where a training stopped, -clear starts over; give one of them");
  return find_resume_point(weights, arguments.has("clear"),
                           arguments.has("seed") ? std::optional(static_cast<std::uint64_t>(seed)) : std::nullopt,
                           arguments.has("resume") ? std::optional(TrainingFiles{backup, base::base_name(cfg)}) : std::nullopt);
}

}  // namespace tessera::darknet
