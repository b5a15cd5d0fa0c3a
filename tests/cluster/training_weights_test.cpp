// Weights files of trainings with workers, exchanged with stock Darknet.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <signal.h>

#include <algorithm>

#include "tests/support/oracle.hpp"
#include "tests/support/training_run.hpp"

using namespace tessera::testing;

namespace {

constexpr double kSameResult = 1e-4;

// What `darknet detector test` of the program under test, or stock Darknet's own, prints about objects.
std::vector<std::string> object_lines(const TrainingFolder& folder, const std::string& program, const std::string& cfg,
                                      const std::string& weights) {
  Process process({program, "detector", "test", "obj.data", cfg, weights, "images/0.png", "-thresh", "0.005", "-dont_show"}, folder.path());
  process.wait(60);
  std::vector<std::string> lines;
  std::string all = process.out();
  for (std::size_t at = 0, end; (end = all.find('\n', at)) != std::string::npos; at = end + 1) {
    const std::string line = all.substr(at, end - at);
    if (line.starts_with("square: ") || line.starts_with("disc: ")) lines.push_back(line);
  }
  std::sort(lines.begin(), lines.end());
  INFO(process.all());
  CHECK_FALSE(lines.empty());
  return lines;
}

}  // namespace

TEST_CASE("weights saved by an interrupted training with workers load in stock Darknet and find the same objects") {
  const TrainingFolder folder;
  TrainingCfg cfg;
  cfg.iterations = 1000;
  cfg.distributed = {"workers=local:4", "threads=1"};
  folder.write("plain.cfg", TrainingCfg{}.text());
  TrainingRun run(folder, "cut", cfg);
  run.wait_for_iteration(25);
  run.signal(SIGINT);
  CHECK(run.wait(30) != 0);
  const std::string path = "backup/cut_last.weights";
  const std::string saved = folder.read(path);
  const auto iterations = seen_images(saved) / 4;
  CHECK(iterations >= 25);
  CHECK(seen_images(saved) % 4 == 0);

  {
    INFO("to the last digit that is printed, by the two programs");
    CHECK(object_lines(folder, darknet_program(), "cut.cfg", path) == object_lines(folder, TESSERA_STOCK_DARKNET, "plain.cfg", path));
  }
  {
    INFO("stock reads what we wrote, and we go on from what stock writes");
    const StockNetwork stock = parse_stock_network(TrainingCfg{}.text());
    std::string ours = folder.path(path), theirs = folder.path("stock.weights");
    stock_load_weights(stock.get(), ours.data());
    CHECK(*stock->seen == seen_images(saved));
    stock_save_weights(stock.get(), theirs.data());
    CHECK(folder.read("stock.weights") == saved);

    TrainingCfg more = cfg, alone = cfg;
    more.iterations = alone.iterations = static_cast<int>(iterations) + 5;
    alone.distributed = {"workers=none", "threads=1"};
    const std::string with_workers = train(folder, "more", more, {"stock.weights"});
    CHECK(seen_images(with_workers) == seen_images(saved) + 5 * 4);
    CHECK(weights_distance(with_workers, train(folder, "alone", alone, {"stock.weights"})) <= kSameResult);
  }
}
