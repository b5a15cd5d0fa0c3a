// Programs and plans as text: nothing that will happen is missing.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <sstream>

#include "base/check.hpp"
#include "graph/footprint.hpp"
#include "program/compile.hpp"
#include "program/print.hpp"
#include "program/work.hpp"
#include "tests/support/random_graph.hpp"
#include "tests/support/seed.hpp"

using namespace tessera;
using graph::Graph;
using program::Mode;
using testing::Rng;

namespace {

constexpr int kCases = 300;

struct Case {
  Graph graph;
  plan::Plan plan;
};

Case random_case(Rng& rng) {
  Case c{testing::random_graph(rng, 8), {}};
  const int batch = rng.between(1, 3);
  const auto plan = plan::make_plan(c.graph, batch, testing::random_layout(rng, c.graph, batch));
  REQUIRE_MESSAGE(plan, plan.error().message);
  c.plan = *plan;
  return c;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

std::vector<std::string> words_of(const std::string& line) {
  std::istringstream stream(line);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// The lines after "title: count steps" and the column titles.
void check_steps(const std::vector<std::string>& lines, std::size_t& at, const std::string& title, const Graph& graph,
                 const program::Program& program, const std::vector<program::Step>& steps, std::size_t first, const program::Names& names,
                 std::set<std::string>& operations) {
  REQUIRE(at < lines.size());
  REQUIRE(lines[at++] == fmt::format("{}: {} steps", title, steps.size()));
  if (steps.empty()) return;
  REQUIRE(words_of(lines[at++]).front() == "step");
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const program::Step& step = steps[i];
    REQUIRE(at < lines.size());
    const std::string& line = lines[at++];
    CAPTURE(line);
    const auto words = words_of(line);
    REQUIRE(words.size() >= 3);
    REQUIRE(words[0] == std::to_string(first + i));
    REQUIRE(words[1] == std::to_string(graph[step.node].source));
    REQUIRE(words[2] == program::to_string(step.op));
    REQUIRE(has(line, " (add) ") == step.accumulate);
    REQUIRE(has(line, " (reduce) ") == (step.phase == program::Phase::kReduce));
    if (!step.box.empty()) REQUIRE(has(line, geometry::to_string(step.box)));
    if (step.peer >= 0) REQUIRE(has(line, (program::is_send(step) ? " to " : " from ") + names[static_cast<std::size_t>(step.peer)]));
    const auto bytes = program::message_bytes(program, step);
    if (bytes > 0) REQUIRE(std::count(words.begin(), words.end(), std::to_string(bytes)) >= 1);
    for (const int buffer : {step.a, step.b, step.c})
      if (buffer >= 0) REQUIRE(has(line, fmt::format("#{} ", buffer)));
    operations.insert(words[2]);
  }
}

}  // namespace

TEST_CASE("the text of a program has every step and every buffer") {
  CAPTURE(testing::seed());
  Rng rng(testing::seed());
  std::set<std::string> operations;
  for (int i = 0; i < kCases; ++i) {
    CAPTURE(i);
    const Case c = random_case(rng);
    const Mode mode = rng.chance(0.7) ? Mode::kTrain : Mode::kTest;
    const auto set = program::compile(c.graph, c.plan, mode);
    const auto names = program::default_names(c.plan.participants);
    for (int p = 0; p < c.plan.participants; ++p) {
      const auto& program = set.programs[static_cast<std::size_t>(p)];
      const auto lines = lines_of(program::program_text(c.graph, set, p, names));
      std::size_t at = 0;
      REQUIRE(lines[at++] ==
              fmt::format("program of {} ({})", names[static_cast<std::size_t>(p)], mode == Mode::kTrain ? "training" : "test"));
      std::size_t first = 0;
      for (int number = 0; number < program::kPhases; ++number) {
        const auto phase = static_cast<program::Phase>(number);
        if (program.steps(phase).empty()) continue;
        check_steps(lines, at, program::to_string(phase), c.graph, program, program.steps(phase), first, names, operations);
        first += program.steps(phase).size();
      }
      REQUIRE(lines[at++] == fmt::format("buffers: {}, arena {:.3f} MB", program.buffers.size(),
                                         static_cast<double>(program.arena_bytes) / (1024 * 1024)));
      if (!program.buffers.empty()) ++at;  // column titles
      for (std::size_t b = 0; b < program.buffers.size(); ++b) {
        const program::Buffer& buffer = program.buffers[b];
        REQUIRE(at < lines.size());
        CAPTURE(lines[at]);
        const auto words = words_of(lines[at]);
        REQUIRE(words[0] == "#" + std::to_string(b));
        REQUIRE(words[1] == program::to_string(buffer.slot));
        const int source = c.graph[buffer.node].source;
        REQUIRE(words[3] == (source < 0 ? "image" : std::to_string(source)));
        REQUIRE(has(lines[at], geometry::to_string(buffer.box)));
        REQUIRE(words[words.size() - 3] == std::to_string(buffer.bytes));
        REQUIRE(words[words.size() - 2] == (buffer.storage == program::Storage::kCaller       ? "caller's"
                                            : buffer.storage == program::Storage::kParameters ? "parameter"
                                                                                              : std::to_string(buffer.offset)));
        REQUIRE(words.back() == (buffer.first_step < 0 ? "unused" : fmt::format("{}-{}", buffer.first_step, buffer.last_step)));
        ++at;
      }
      REQUIRE(at == lines.size());
    }
  }
  // Every operation there is came up, under a name of its own.
  CHECK(operations.size() == static_cast<std::size_t>(program::Op::kUpdate) + 1);
}

TEST_CASE("the table of layers has a line for every layer of the range") {
  CAPTURE(testing::seed());
  Rng rng(testing::seed() + 1);
  for (int i = 0; i < kCases; ++i) {
    CAPTURE(i);
    const Case c = random_case(rng);
    const auto lines = lines_of(program::layers_table(c.graph, c.plan));
    const auto forward = plan::forward_groups(c.plan, c.graph);
    const int first = c.graph.first_layer();
    REQUIRE(lines.size() == static_cast<std::size_t>(1 + c.graph.size() - first));
    for (int node = first; node < c.graph.size(); ++node) {
      const auto& layer = c.graph[node];
      const std::string& line = lines[static_cast<std::size_t>(1 + node - first)];
      CAPTURE(line);
      const auto words = words_of(line);
      REQUIRE(words[0] == std::to_string(layer.source));
      REQUIRE(words[1] == graph::to_string(layer.kind));
      REQUIRE(has(line, fmt::format(" {} x {} x {} ", layer.out.y, layer.out.x, layer.out.c)));
      REQUIRE((words.back() == "delivered") == layer.delivered);
      const std::size_t group = words.size() - (layer.delivered ? 3 : 2);
      REQUIRE(words[group] == std::to_string(forward[static_cast<std::size_t>(node)]));
    }
  }
}

TEST_CASE("the table of devices says what each one owns, and that what is sent is fetched") {
  Graph graph;
  graph.layers.resize(2);
  graph.layers[0].out = {1, 8, 6};
  graph.layers[0].backward = false;
  auto& layer = graph.layers[1];
  layer.kind = graph::LayerKind::kConvolutional;
  layer.source = 0;
  layer.inputs = {0};
  layer.kernel = 3, layer.pad = 1;
  layer.out = {1, 8, 6};
  layer.delivered = true;
  const auto plan = plan::make_plan(graph, 2, testing::one_cut(graph, {{1}, {1}, {1, 1}, {1}}, {1, 2}, 3));
  REQUIRE_MESSAGE(plan, plan.error().message);
  const auto set = program::compile(graph, *plan, Mode::kTest);
  const auto lines = lines_of(program::devices_table(graph, *plan, set, {"boss", "anna", "bert"}));
  REQUIRE(lines.size() == 5);
  const auto boss = words_of(lines[1]), anna = words_of(lines[2]), bert = words_of(lines[3]);
  REQUIRE(boss.size() == 9);
  REQUIRE(anna.size() == 9);
  REQUIRE(bert.size() == 9);
  CHECK(std::vector<std::string>(boss.begin(), boss.begin() + 4) == std::vector<std::string>{"boss", "-", "-", "-"});
  CHECK(std::vector<std::string>(anna.begin(), anna.begin() + 4) == std::vector<std::string>{"anna", "0-1", "0-3", "0-5"});
  CHECK(std::vector<std::string>(bert.begin(), bert.begin() + 4) == std::vector<std::string>{"bert", "0-1", "4-7", "0-5"});
  // Two samples of five rows of the image to each, and of four rows of the result back.
  CHECK(boss[6] == fmt::format("{:.1f}", 2 * 2 * 5 * 6 * 4 / 1024.0));
  CHECK(boss[5] == fmt::format("{:.1f}", 2 * 2 * 4 * 6 * 4 / 1024.0));
  CHECK(boss[7] == "2");
  CHECK(anna[7] == "1");
  CHECK(anna[5] == fmt::format("{:.1f}", 2 * 5 * 6 * 4 / 1024.0));
  CHECK(anna[6] == fmt::format("{:.1f}", 2 * 4 * 6 * 4 / 1024.0));
  CHECK(has(lines[4], "layer 0 (convolutional)"));
  CHECK(has(lines[4], "forward pass"));

  CHECK_THROWS_AS(program::devices_table(graph, *plan, set, {"boss"}), base::CheckFailure);
  CHECK_THROWS_AS(program::program_text(graph, set, 0, {"boss"}), base::CheckFailure);
}

TEST_CASE("participants and layers have names") {
  CHECK(program::default_names(3) == program::Names{"coordinator", "worker 1", "worker 2"});
  Graph graph;
  graph.layers.resize(2);
  graph.layers[1].kind = graph::LayerKind::kMaxpool;
  graph.layers[1].source = 7;
  CHECK(program::layer_name(graph, 0) == "input");
  CHECK(program::layer_name(graph, 1) == "layer 7 (maxpool)");
}
