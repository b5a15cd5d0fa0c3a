// What both trainers take from the command line.
#pragma once

#include <cstdint>
#include <string>

#include "darknet/commands/arguments.hpp"
#include "darknet/training/resume.hpp"
#include "darknet/training/training_loop.hpp"

namespace tessera::darknet {

TrainingOptions training_options(const Arguments& arguments, const std::string& backup, const std::string& cfg, std::uint64_t seed);

// Iterations between two tests with -map: an epoch, at least 100, or -map_every. 0 without -map.
std::uint64_t test_interval(const Arguments& arguments, std::size_t images, std::uint64_t rows);

// Where to start: -clear and -seed decide with what lies beside the weights.
[[nodiscard]] base::Result<ResumePoint> resume_point(const std::string& weights, const Arguments& arguments, const std::string& backup,
                                                     const std::string& cfg);

}  // namespace tessera::darknet
