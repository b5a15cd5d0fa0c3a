// input_box and output_box of every layer kind against trying every position.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <map>

#include "graph/footprint.hpp"
#include "tests/support/brute_force.hpp"
#include "tests/support/random_graph.hpp"
#include "tests/support/seed.hpp"

using namespace tessera;
using geometry::Box;
using geometry::Range;
using testing::Rng;

namespace {

Range part(Rng& rng, geometry::Index size) {
  const int begin = rng.between(0, static_cast<int>(size) - 1);
  return {begin, rng.between(begin + 1, static_cast<int>(size))};
}

// Windows with gaps between them, and reorg's scattered cells: a box may reach further than what is read.
bool has_gaps(const graph::Layer& layer) {
  return (layer.dilation > 1 || layer.kernel < std::max(layer.stride, layer.stride_x)) &&
         (layer.kind == graph::LayerKind::kConvolutional || layer.kind == graph::LayerKind::kMaxpool);
}

}  // namespace

TEST_CASE("footprints of random layers equal brute force") {
  Rng rng(testing::seed());
  std::map<graph::LayerKind, int> tried;
  int loose = 0, boxes = 0;
  for (int i = 0; i < 4000; ++i) {
    const auto graph = testing::random_graph(rng, 4);
    for (int node = graph.first_layer(); node < graph.size(); ++node) {
      const auto& layer = graph[node];
      for (int input = 0; input < static_cast<int>(layer.inputs.size()); ++input) {
        const auto& from = graph[layer.inputs[static_cast<std::size_t>(input)]].out;
        const Box out{{0, 1}, part(rng, layer.out.c), part(rng, layer.out.y), part(rng, layer.out.x)};
        const Box in{{0, 1}, part(rng, from.c), part(rng, from.y), part(rng, from.x)};
        INFO(fmt::format("case {} node {} input {} out {} in {}{}", i, node, input, to_string(out), to_string(in),
                         testing::describe(graph)));
        const Box read = graph::input_box(graph, node, input, out), brute_read = testing::brute_input_box(graph, node, input, out);
        const Box touched = graph::output_box(graph, node, input, in), brute_touched = testing::brute_output_box(graph, node, input, in);
        REQUIRE(read.contains(brute_read));
        REQUIRE(touched.contains(brute_touched));
        REQUIRE(Box::whole(1, from).contains(read));
        REQUIRE(Box::whole(1, layer.out).contains(touched));
        ++boxes;
        if (layer.kind == graph::LayerKind::kReorg) {
          // Its channels are taken whole: rows and columns of whole channels are what counts.
          Box out_all = out, in_all = in;
          out_all.c = {0, layer.out.c}, in_all.c = {0, from.c};
          REQUIRE(graph::input_box(graph, node, 0, out_all) == read);
          const bool exact =
              testing::brute_input_box(graph, node, 0, out_all) == read && testing::brute_output_box(graph, node, 0, in_all) == touched;
          loose += !exact;
        } else if (!has_gaps(layer)) {
          REQUIRE(read == brute_read);
          REQUIRE(touched == brute_touched);
        }
        ++tried[layer.kind];
      }
    }
  }
  CAPTURE(boxes);
  CHECK(loose * 50 <= boxes);
  CHECK(tried.size() == 6);
  for (const auto& [kind, count] : tried) {
    CAPTURE(to_string(kind));
    CHECK(count > 100);
  }
}
