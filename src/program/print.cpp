#include "program/print.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "base/check.hpp"
#include "graph/footprint.hpp"
#include "graph/layers/kind.hpp"
#include "program/work.hpp"

namespace tessera::program {

using graph::Graph;

namespace {

constexpr double kMebibyte = 1024.0 * 1024.0;

std::size_t at(int i) { return static_cast<std::size_t>(i); }

template <typename... Args>
void line(std::string& text, fmt::format_string<Args...> format, Args&&... args) {
  fmt::format_to(std::back_inserter(text), format, std::forward<Args>(args)...);
  text.erase(text.find_last_not_of(' ') + 1);
  text += '\n';
}

std::string range_text(const geometry::Range& range) { return range.empty() ? "-" : fmt::format("{}-{}", range.begin, range.end - 1); }

// "size x stride" and what else decides about a layer's computation.
std::string window_text(const graph::Layer& layer) {
  const auto text = graph::kind(layer).text;
  return text ? text(layer) : "";
}

std::string input_text(const Graph& graph, int node) {
  std::string text;
  for (const int input : graph[node].inputs) {
    const int source = graph[input].source;
    text += fmt::format("{}{}", text.empty() ? "" : ",", source < 0 ? std::string("image") : std::to_string(source));
  }
  return text;
}

std::string buffer_name(const Graph& graph, const Program& program, int buffer) {
  if (buffer < 0) return "-";
  const Buffer& b = program.buffers[at(buffer)];
  const int source = graph[b.node].source;
  return fmt::format("#{} {} of {}", buffer, to_string(b.slot), source < 0 ? std::string("image") : std::to_string(source));
}

// The buffers a step reads and writes, in its own order.
std::string buffers_text(const Graph& graph, const Program& program, const Step& step) {
  std::string text;
  for (const int buffer : {step.a, step.b, step.c})
    if (buffer >= 0) text += fmt::format("{}{}", text.empty() ? "" : ", ", buffer_name(graph, program, buffer));
  return text;
}

std::string peer_text(const Step& step, const Names& names) {
  if (step.peer < 0) return "";
  return fmt::format("{} {}", is_send(step) ? "to" : "from", names[at(step.peer)]);
}

void steps_text(std::string& text, const Graph& graph, const Program& program, Phase phase, int& number, const Names& names) {
  const auto& steps = program.steps(phase);
  line(text, "{}: {} steps", to_string(phase), steps.size());
  if (steps.empty()) return;
  line(text, "  {:>5}  {:>5}  {:<26}{:<40}  {:<18}  {:>10}  {}", "step", "layer", "operation", "box (n x c x y x x)", "peer", "bytes",
       "buffers");
  for (const Step& step : steps) {
    const std::uint64_t bytes = message_bytes(program, step);
    const std::string operation =
        fmt::format("{}{}{}", to_string(step.op), step.accumulate ? " (add)" : "", step.phase == Phase::kReduce ? " (reduce)" : "");
    line(text, "  {:>5}  {:>5}  {:<26}{:<40}  {:<18}  {:>10}  {}", number++, graph[step.node].source, operation,
         step.box.empty() ? std::string() : geometry::to_string(step.box), peer_text(step, names), bytes ? std::to_string(bytes) : "",
         buffers_text(graph, program, step));
  }
}

void buffers_list(std::string& text, const Graph& graph, const Program& program) {
  line(text, "buffers: {}, arena {:.3f} MB", program.buffers.size(), static_cast<double>(program.arena_bytes) / kMebibyte);
  if (program.buffers.empty()) return;
  line(text, "  {:<30}{:<40}  {:>12}  {:>12}  {}", "buffer", "box (n x c x y x x)", "bytes", "offset", "steps");
  for (std::size_t i = 0; i < program.buffers.size(); ++i) {
    const Buffer& b = program.buffers[i];
    line(text, "  {:<30}{:<40}  {:>12}  {:>12}  {}", buffer_name(graph, program, static_cast<int>(i)), geometry::to_string(b.box), b.bytes,
         b.storage == Storage::kCaller       ? std::string("caller's")
         : b.storage == Storage::kParameters ? std::string("parameter")
                                             : std::to_string(b.offset),
         b.first_step < 0 ? std::string("unused") : fmt::format("{}-{}", b.first_step, b.last_step));
  }
}

// The tensor whose boxes show best how the maps are cut.
int largest_map(const Graph& graph) {
  int largest = graph.first_layer();
  for (int node = largest; node < graph.size(); ++node)
    if (graph[node].out.y * graph[node].out.x > graph[largest].out.y * graph[largest].out.x) largest = node;
  return largest;
}

struct Totals {
  double multiply_adds = 0;
  double sent = 0, received = 0;
  std::uint64_t messages = 0;
};

// Of one pass, without what happens once per update.
Totals totals(const Graph& graph, const Program& program) {
  Totals sum;
  for (const Phase phase : {Phase::kLoad, Phase::kForward, Phase::kBackward})
    for (const Step& step : program.steps(phase)) {
      if (step.phase == Phase::kReduce) continue;
      sum.multiply_adds += static_cast<double>(work(graph, program, step).multiply_adds);
      const auto bytes = static_cast<double>(message_bytes(program, step));
      (is_send(step) ? sum.sent : sum.received) += bytes;
      sum.messages += is_send(step) ? 1 : 0;
    }
  return sum;
}

}  // namespace

Names default_names(int participants) {
  Names names = {"coordinator"};
  for (int p = 1; p < participants; ++p) names.push_back(fmt::format("worker {}", p));
  return names;
}

std::string layer_name(const Graph& graph, int node) {
  const auto& layer = graph[node];
  if (layer.source < 0) return "input";
  return fmt::format("layer {} ({})", layer.source, graph::to_string(layer.kind));
}

std::string layers_table(const Graph& graph, const plan::Plan& plan) {
  const auto forward = plan::forward_groups(plan, graph), backward = plan::backward_groups(plan, graph);
  std::string text;
  line(text, "{:>5}  {:<13} {:<25} {:<9} {:>16} {:>9}  {:>7} {:>8}", "layer", "kind", "window", "input", "output", "MMAC", "forward",
       "backward");
  for (int node = graph.first_layer(); node < graph.size(); ++node) {
    const auto& layer = graph[node];
    const double mega = static_cast<double>(graph::multiply_adds(graph, node, Box::whole(1, layer.out))) / 1e6;
    line(text, "{:>5}  {:<13} {:<25} {:<9} {:>16} {:>9.1f}  {:>7} {:>8}{}", layer.source, graph::to_string(layer.kind), window_text(layer),
         input_text(graph, node), fmt::format("{} x {} x {}", layer.out.y, layer.out.x, layer.out.c), mega, forward[at(node)],
         backward[at(node)] + 1, layer.delivered ? "  delivered" : "");
  }
  return text;
}

std::string devices_table(const Graph& graph, const plan::Plan& plan, const ProgramSet& set, const Names& names) {
  TESSERA_CHECK(names.size() == set.programs.size(), "{} names for {} programs", names.size(), set.programs.size());
  const int shown = largest_map(graph);
  std::string text;
  line(text, "{:<18}  {:>9} {:>11} {:>11}  {:>10} {:>12} {:>12} {:>9} {:>9}", "device", "samples", "rows", "columns", "MMAC", "fetches KB",
       "sends KB", "messages", "arena MB");
  for (int p = 0; p < static_cast<int>(set.programs.size()); ++p) {
    const Box& box = plan.box(shown, p);
    const Totals sum = totals(graph, set.programs[at(p)]);
    line(text, "{:<18}  {:>9} {:>11} {:>11}  {:>10.1f} {:>12.1f} {:>12.1f} {:>9} {:>9.2f}", names[at(p)], range_text(box.n),
         range_text(box.y), range_text(box.x), sum.multiply_adds / 1e6, sum.received / 1024, sum.sent / 1024, sum.messages,
         static_cast<double>(set.programs[at(p)].arena_bytes) / kMebibyte);
  }
  line(text, "rows and columns of {}; work and messages of one {}", layer_name(graph, shown),
       set.mode == Mode::kTrain ? "forward and backward pass, without the reduction of gradients" : "forward pass");
  return text;
}

std::string program_text(const Graph& graph, const ProgramSet& set, int participant, const Names& names) {
  TESSERA_CHECK(names.size() == set.programs.size(), "{} names for {} programs", names.size(), set.programs.size());
  const Program& program = set.programs[at(participant)];
  std::string text;
  line(text, "program of {} ({})", names[at(participant)], set.mode == Mode::kTrain ? "training" : "test");
  int number = 0;
  for (int phase = 0; phase < kPhases; ++phase)
    if (static_cast<Phase>(phase) != Phase::kReduce && !program.steps(static_cast<Phase>(phase)).empty())
      steps_text(text, graph, program, static_cast<Phase>(phase), number, names);
  buffers_list(text, graph, program);
  return text;
}

}  // namespace tessera::program
