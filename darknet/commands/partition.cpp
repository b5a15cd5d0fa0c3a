// darknet partition DATA N OUT: the training pictures of a classifier divided over N edges.
#include <cstdio>
#include <filesystem>

#include "base/text.hpp"
#include "darknet/commands/commands.hpp"
#include "darknet/training/classifier_set.hpp"
#include "data/partition.hpp"
#include "observe/class_chart.hpp"

namespace tessera::darknet {
namespace {

// A .data file for an edge: the whole's, with the edge's own pictures and backup folder.
std::string edge_data(const cfg::DataFile& whole, std::size_t labels, const std::string& train, const std::string& backup) {
  std::string text = fmt::format("classes = {}\ntrain = {}\nbackup = {}\n", labels, train, backup);
  for (const auto& [key, value] :
       {std::pair{"valid", whole.valid}, {"labels", whole.labels}, {"names", whole.names}, {"augment", whole.augment}})
    if (!value.empty()) text += fmt::format("{} = {}\n", key, value);
  return text;
}

}  // namespace

base::Result<int> run_partition(const Arguments& arguments) {
  TESSERA_ASSIGN(const cfg::DataFile data_file, cfg::read_data_file(arguments.operand(0)));
  const auto edges = base::to_integer(arguments.operand(1));
  if (!edges || *edges < 1 || *edges > 100000)
    return base::error(base::ErrorCode::kInvalidArgument, "'{}' is no number of edges; write darknet partition DATA N OUT",
                       arguments.operand(1));
  const std::string out = arguments.operand(2);
  TESSERA_ASSIGN(const std::vector<std::string> labels, read_labels_list(data_file, 0));
  TESSERA_ASSIGN(const auto images, open_set(data_file, "train", labels));
  const double alpha = arguments.real("alpha", 0);
  if (arguments.has("alpha") && !(alpha > 0))
    return base::error(base::ErrorCode::kInvalidArgument, "-alpha {}: must be above 0; without it every edge has the same mixture", alpha);
  const auto seed = static_cast<std::uint64_t>(arguments.integer("seed", 1));
  TESSERA_ASSIGN(const data::Partition parts, data::partition(images->classes(), {static_cast<int>(*edges), alpha, seed}));

  std::error_code failure;
  std::filesystem::create_directories(out, failure);
  if (failure) return base::error(base::ErrorCode::kIo, "{}: cannot be made: {}", out, failure.message());
  for (std::size_t edge = 0; edge < parts.size(); ++edge) {
    const std::string prefix = fmt::format("{}/edge{}", out, edge);
    TESSERA_ASSIGN(const std::string train, images->write_part(parts[edge], prefix));
    TESSERA_TRY(base::write_file_atomically(prefix + ".data", edge_data(data_file, labels.size(), train, prefix + "-backup")));
  }
  const auto counts = data::class_counts(parts, images->classes(), labels.size());
  const std::string how = alpha > 0 ? fmt::format("Dirichlet, alpha {}", alpha) : "the same mixture for all";
  TESSERA_TRY(observe::write_class_chart(counts, labels, fmt::format("{} pictures, {}, seed {}", images->size(), how, seed),
                                         out + "/partition.png"));
  fmt::print("{}{} pictures over {} edges ({}, seed {}): {}/edge0.data to edge{}.data, partition.png\n",
             observe::class_table(counts, labels), images->size(), parts.size(), how, seed, out, parts.size() - 1);
  return 0;
}

}  // namespace tessera::darknet
