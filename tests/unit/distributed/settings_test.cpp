// The [distributed] section of a cfg: every key, good and bad.
#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "plugins/distributed/settings.hpp"

using namespace tessera;
using cfg::Groups;
using distributed::Settings;

namespace {

constexpr int kLine = 17;

base::Result<Settings> read(const std::string& key, const std::string& value, const std::string& file = "some/net.cfg") {
  cfg::DistributedSection section;
  section.present = true;
  section.file = file;
  section.settings[key] = {value, kLine};
  return distributed::read_settings(section);
}

Settings good(const std::string& key, const std::string& value) {
  const auto settings = read(key, value);
  REQUIRE_MESSAGE(settings, settings.error().message);
  return *settings;
}

void check_bad(const std::string& key, const std::string& value, const std::string& part) {
  CAPTURE(key);
  CAPTURE(value);
  const auto settings = read(key, value);
  REQUIRE_FALSE(settings);
  const std::string& message = settings.error().message;
  CHECK_MESSAGE(message.starts_with("some/net.cfg:17: " + key + "=" + value + ": "), message);
  CHECK_MESSAGE(message.find(part) != std::string::npos, message);
  CHECK_MESSAGE(message.find('\n') == std::string::npos, message);
}

// Wrapped layers 3 to 6 behind an input.
graph::Graph four_layers() {
  graph::Graph graph;
  graph.layers.resize(5);
  for (int node = 1; node < 5; ++node) {
    auto& layer = graph.layers[static_cast<std::size_t>(node)];
    layer.kind = graph::LayerKind::kConvolutional;
    layer.source = node + 2;
    layer.inputs = {node - 1};
  }
  return graph;
}

}  // namespace

TEST_CASE("without keys this process is the only device and everything is chosen") {
  const auto settings = distributed::read_settings({});
  REQUIRE_MESSAGE(settings, settings.error().message);
  CHECK(settings->layers == 0);
  CHECK(settings->local_workers == 0);
  CHECK(settings->cluster_file.empty());
  CHECK(settings->rows == 0);
  CHECK(settings->forward_groups.kind == Groups::Kind::kAuto);
  CHECK(settings->backward_groups.kind == Groups::Kind::kAuto);
  CHECK(settings->memory_mb == 0);
  CHECK(settings->threads == 0);
  CHECK_FALSE(settings->backend.has_value());
}

TEST_CASE("counts") {
  CHECK(good("layers", "12").layers == 12);
  check_bad("layers", "0", "whole number of at least 1");
  check_bad("layers", "all", "remove the key");
  check_bad("layers", "3.5", "whole number");
  check_bad("layers", "99999999999999999999", "whole number");
  CHECK(good("memory_mb", "700").memory_mb == 700);
  CHECK(good("memory_mb", "0").memory_mb == 0);
  check_bad("memory_mb", "-1", "0 for none");
  check_bad("memory_mb", "1G", "limit in MB");
  CHECK(good("threads", "3").threads == 3);
  CHECK(good("threads", "auto").threads == 0);
  check_bad("threads", "-2", "0 for all cores");
  check_bad("threads", "many", "0 for all cores");
}

TEST_CASE("workers") {
  CHECK(good("workers", "none").local_workers == 0);
  CHECK(good("workers", "local:4").local_workers == 4);
  CHECK(good("workers", "local:64").local_workers == 64);
  for (const char* value : {"local", "local:", "local:0", "local:65", "local:-1", "local:two"})
    check_bad("workers", value, "write local:N with N from 1 to 64, or none");
  check_bad("workers", "no_such.cluster", "some/no_such.cluster is no file");

  std::string pattern = (std::filesystem::temp_directory_path() / "tessera-settings-XXXXXX").string();
  REQUIRE(::mkdtemp(pattern.data()) != nullptr);
  const std::string file = pattern + "/four.cluster";
  std::ofstream(file) << "\n";
  const auto settings = read("workers", "four.cluster", pattern + "/net.cfg");
  std::filesystem::remove_all(pattern);
  REQUIRE_MESSAGE(settings, settings.error().message);
  CHECK(settings->cluster_file == file);
  CHECK(settings->local_workers == 0);
}

TEST_CASE("grid") {
  CHECK(good("grid", "auto").rows == 0);
  const Settings two = good("grid", "2x3"), three = good("grid", "2x3x4");
  CHECK(two.rows == 2);
  CHECK(two.columns == 3);
  CHECK(two.samples == 1);
  CHECK(three.rows == 2);
  CHECK(three.columns == 3);
  CHECK(three.samples == 4);
  for (const char* value : {"6", "2x", "x2", "0x2", "2x-1", "2x3x4x5", "axb", "1025x1", "99999999999999999999x1"})
    check_bad("grid", value, "ROWSxCOLUMNS");

  Settings settings = three;
  REQUIRE(cfg::set_key(settings, "grid", "auto", "-grid auto"));
  CHECK(settings.rows == 0);
  CHECK(settings.columns == 0);
  CHECK(settings.samples == 1);
  const auto bad = cfg::set_key(settings, "grid", "2by2", "-grid 2by2");
  REQUIRE_FALSE(bad);
  CHECK_MESSAGE(bad.error().message.starts_with("-grid 2by2: "), bad.error().message);
}

TEST_CASE("groups") {
  CHECK(good("forward_groups", "auto").forward_groups.kind == Groups::Kind::kAuto);
  CHECK(good("forward_groups", "each").forward_groups.kind == Groups::Kind::kEach);
  CHECK(good("backward_groups", "one").backward_groups.kind == Groups::Kind::kOne);
  const auto listed = good("backward_groups", "3,5,6");
  CHECK(listed.backward_groups.kind == Groups::Kind::kListed);
  CHECK(listed.backward_groups.layers == std::vector<int>{3, 5, 6});
  CHECK(listed.backward_groups.where == "some/net.cfg:17: backward_groups=3,5,6");
  CHECK(listed.forward_groups.kind == Groups::Kind::kAuto);
  check_bad("forward_groups", "0,x", "'x' is no layer number; list the first layer");
  check_bad("backward_groups", "-1", "'-1' is no layer number; list the last layer");
  check_bad("forward_groups", "4,2", "layer 2 stands after layer 4");
  check_bad("forward_groups", "4,4", "layer 4 stands after layer 4");
}

TEST_CASE("channels") {
  using Kind = cfg::Channels::Kind;
  CHECK(Settings().channels.kind == Kind::kAuto);
  CHECK(good("channels", "auto").channels.kind == Kind::kAuto);
  CHECK(good("channels", "off").channels.kind == Kind::kOff);
  const auto graph = four_layers();  // layers 3 to 6 are nodes 1 to 4
  const auto nodes = [&](const char* value) {
    const auto request = distributed::layout_request(good("channels", value), graph);
    REQUIRE_MESSAGE(request, request.error().message);
    CHECK(request->channels == plan::LayoutRequest::Channels::kNodes);
    return request->channel_nodes;
  };
  using Ranges = std::vector<geometry::Range>;
  CHECK(nodes("4") == Ranges{{2, 5}});
  CHECK(nodes("4-5") == Ranges{{2, 4}});
  CHECK(nodes("3-6") == Ranges{{1, 5}});
  CHECK(nodes("3,5-6") == Ranges{{1, 2}, {3, 5}});
  CHECK(nodes("3-4,6") == Ranges{{1, 3}, {4, 5}});
  for (const char* value : {"yes", "-1", "4-", "5-4", "4-5-6", "5,4", "4,", ",4", "4-5,5", "4-5x", "99999999999"})
    check_bad("channels", value, "12-14");
  for (const char* value : {"2", "7", "3-7", "3-2147483647"}) {
    const auto outside = distributed::layout_request(good("channels", value), graph);
    REQUIRE_FALSE(outside);
    CHECK(outside.error().message ==
          fmt::format("some/net.cfg:17: channels={}: not all of these layers are wrapped; name layers from 3 to 6, or write auto", value));
  }
}

TEST_CASE("recompute") {
  using cfg::Choice;
  CHECK(good("recompute", "auto").recompute == Choice::kAuto);
  CHECK(good("recompute", "on").recompute == Choice::kOn);
  CHECK(good("recompute", "off").recompute == Choice::kOff);
  check_bad("recompute", "yes", "write on, off, or auto");
}

TEST_CASE("boundary_first") {
  using cfg::Choice;
  CHECK(good("boundary_first", "auto").boundary_first == Choice::kAuto);
  CHECK(good("boundary_first", "on").boundary_first == Choice::kOn);
  CHECK(good("boundary_first", "off").boundary_first == Choice::kOff);
  check_bad("boundary_first", "always", "write on, off, or auto");
}

TEST_CASE("wire and backend") {
  CHECK_FALSE(good("wire", "fp32").half_wire);
  CHECK(good("wire", "fp16").half_wire);
  check_bad("wire", "fp8", "no number format; write fp32");
  check_bad("wire", "int8", "write fp32");
  CHECK_FALSE(good("backend", "auto").backend.has_value());
  for (const auto backend : kernels::built_backends()) CHECK(good("backend", std::string(kernels::to_string(backend))).backend == backend);
  check_bad("backend", "cuda", "no such backend; write one of auto, ");

  Settings settings = good("backend", "reference");
  REQUIRE(distributed::set_backend(settings, "blas", "-backend blas"));
  CHECK(settings.backend == kernels::Backend::kBlas);
  REQUIRE(distributed::set_backend(settings, "auto", "-backend auto"));
  CHECK_FALSE(settings.backend.has_value());
  const auto bad = distributed::set_backend(settings, "gpu", "-backend gpu");
  REQUIRE_FALSE(bad);
  CHECK_MESSAGE(bad.error().message.starts_with("-backend gpu: no such backend; write one of stock, auto, "), bad.error().message);
}

TEST_CASE("an unknown key is an error with the key that was meant, or all keys") {
  const auto near = read("worker", "none"), far = read("zzzzzzzzzzzz", "1");
  REQUIRE_FALSE(near);
  CHECK(near.error().message == "some/net.cfg:17: [distributed] has no key 'worker'; did you mean 'workers'?");
  REQUIRE_FALSE(far);
  for (const cfg::DistributedKey& key : cfg::distributed_keys())
    CHECK_MESSAGE(far.error().message.find(key.name) != std::string::npos, far.error().message);
}

TEST_CASE("layer numbers become nodes of the wrapped range") {
  const auto graph = four_layers();
  Settings settings = good("forward_groups", "4,6");
  settings.backward_groups = good("backward_groups", "4").backward_groups;
  settings.rows = 1, settings.columns = 2, settings.samples = 3;
  settings.recompute = cfg::Choice::kOff, settings.boundary_first = cfg::Choice::kOn, settings.half_wire = true;
  auto request = distributed::layout_request(settings, graph);
  REQUIRE_MESSAGE(request, request.error().message);
  CHECK(request->forward_starts == std::vector<int>{1, 2, 4});  // the first layer always starts a group
  CHECK(request->backward_ends == std::vector<int>{2, 4});      // the last always ends one
  CHECK(request->rows == 1);
  CHECK(request->columns == 2);
  CHECK(request->samples == 3);
  CHECK(request->recompute == plan::LayoutRequest::Recompute::kOff);
  CHECK(request->boundary_first == plan::LayoutRequest::BoundaryFirst::kOn);
  CHECK(request->wire == plan::WireType::kFloat16);

  settings = good("forward_groups", "each");
  settings.backward_groups = good("backward_groups", "one").backward_groups;
  request = distributed::layout_request(settings, graph);
  REQUIRE_MESSAGE(request, request.error().message);
  CHECK(request->forward_starts == std::vector<int>{1, 2, 3, 4});
  CHECK(request->backward_ends == std::vector<int>{4});

  request = distributed::layout_request(good("grid", "auto"), graph);
  REQUIRE_MESSAGE(request, request.error().message);
  CHECK_FALSE(request->forward_starts.has_value());
  CHECK_FALSE(request->backward_ends.has_value());

  for (const char* layer : {"2", "7"}) {
    const auto outside = distributed::layout_request(good("forward_groups", layer), graph);
    REQUIRE_FALSE(outside);
    CHECK_MESSAGE(outside.error().message.find(std::string("some/net.cfg:17: forward_groups=") + layer + ": layer " + layer +
                                               " is not wrapped; name layers from 3 to 6") == 0,
                  outside.error().message);
  }
}
