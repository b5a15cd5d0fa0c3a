// The include rules: who may know whom. Checked over the whole tree, and the checker itself on made-up files.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "tests/check/documents.hpp"

namespace {

namespace fs = std::filesystem;
using Names = std::set<std::string>;

// What a folder of src/ may include of src/, besides itself and base.
const std::map<std::string, Names> kMayKnow = {
    {"base", {}},
    {"geometry", {}},
    {"graph", {"geometry"}},
    {"plan", {"geometry", "graph"}},
    {"program", {"geometry", "graph", "plan"}},
    {"sim", {"geometry", "graph", "plan", "program"}},
    {"kernels", {"geometry"}},
    {"optim", {}},
    {"wire", {}},
    {"transport", {}},
    {"observe", {"cfg", "data"}},
    {"cfg", {}},
    {"data", {"cfg"}},
    {"exec", {"geometry", "graph", "plan", "program", "kernels", "wire", "transport"}},
    {"cluster", {"geometry", "graph", "plan", "program", "sim", "kernels", "wire", "transport", "observe", "exec"}},
};

// A library that only files with one of these path prefixes (and, if given, this word in their name) may include.
struct LibraryRule {
  std::string name;
  std::vector<std::string> header_prefixes;
  std::vector<std::string> path_prefixes;
  std::string word;
};
const std::vector<LibraryRule> kLibraries = {
    {"darknet.h", {"darknet.h"}, {"plugins/", "darknet/upstream/", "darknet/training/evaluate.cpp"}, ""},
    {"ZeroMQ", {"zmq"}, {"src/transport/zmq"}, ""},
    {"oneDNN", {"dnnl", "oneapi/dnnl"}, {"src/kernels/"}, "onednn"},
    // Image libraries cost a worker tens of megabytes when they are loaded.
    {"OpenCV", {"opencv"}, {"src/observe/", "src/data/", "plugins/", "darknet/"}, ""},
};

bool starts_with_any(const std::string& text, const std::vector<std::string>& prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(), [&](const auto& prefix) { return text.starts_with(prefix); });
}

std::string first_component(const std::string& path) { return path.substr(0, path.find('/')); }

// Why `file` (path from the top of the tree) must not include `header` (as written); nothing when it may.
std::optional<std::string> violation(const std::string& file, const std::string& header) {
  for (const LibraryRule& rule : kLibraries) {
    if (!starts_with_any(header, rule.header_prefixes)) continue;
    const bool right_name = fs::path(file).filename().string().find(rule.word) != std::string::npos;
    if (!starts_with_any(file, rule.path_prefixes) || !right_name) return "must not include " + rule.name;
  }
  if (header == "opencv2/opencv.hpp") return "must include only the OpenCV headers it uses: the build installs only some";
  if (header.find("..") != std::string::npos) return "must name headers by their path from src/";
  const std::string target = first_component(header);
  if (target == "tests") return "must not know the tests";
  if (file.starts_with("darknet/commands/")) return {};
  if (file.starts_with("darknet/")) {
    if (target == "plugins") return "only darknet/commands/ joins the plugins";
    if (header.starts_with("darknet/commands/")) return "must not know the commands";
    return {};
  }
  if (file.starts_with("plugins/") && header.starts_with("darknet/commands/")) return "must not know the commands";
  if (!file.starts_with("src/")) return {};

  if (target == "plugins" || target == "darknet") return "src/ must not know " + target + "/";
  const std::string folder = first_component(file.substr(4));
  const auto rule = kMayKnow.find(folder);
  if (rule == kMayKnow.end()) return "src/" + folder + "/ is in no include rule";
  const bool is_ours = header.find('/') != std::string::npos && kMayKnow.contains(target);
  if (!is_ours || target == folder || target == "base" || rule->second.contains(target)) return {};
  return folder + " must not know " + target;
}

std::vector<std::string> included_headers(std::istream& source) {
  std::vector<std::string> headers;
  for (std::string line; std::getline(source, line);) {
    std::string packed;
    for (char c : line)
      if (c != ' ' && c != '\t' && c != '\r') packed += c;
    if (!packed.starts_with("#include<") && !packed.starts_with("#include\"")) continue;
    const auto begin = std::string("#include<").size();
    headers.push_back(packed.substr(begin, packed.find_first_of(">\"", begin) - begin));
  }
  return headers;
}

}  // namespace

TEST_CASE("no file includes what it must not know") {
  const fs::path root = TESSERA_SOURCE_ROOT;
  int files = 0;
  for (const char* top : {"src", "plugins", "darknet"}) {
    REQUIRE_MESSAGE(fs::is_directory(root / top), "no folder ", top);
    for (const auto& entry : fs::recursive_directory_iterator(root / top)) {
      const std::string extension = entry.path().extension().string();
      if (extension != ".cpp" && extension != ".hpp" && extension != ".h") continue;
      ++files;
      const std::string file = entry.path().lexically_relative(root).generic_string();
      std::ifstream source(entry.path());
      REQUIRE_MESSAGE(source.is_open(), "cannot read ", file);
      for (const std::string& header : included_headers(source)) {
        const auto reason = violation(file, header);
        CHECK_MESSAGE(!reason, file, " includes ", header, ": ", reason.value_or(""));
      }
    }
  }
  CHECK(files > 20);  // the walk has found the tree
}

TEST_CASE("the include rules forbid what they are there to forbid") {
  const std::pair<const char*, const char*> forbidden[] = {
      {"src/base/log.hpp", "geometry/box.hpp"},
      {"src/geometry/box.cpp", "graph/graph.hpp"},
      {"src/graph/graph.cpp", "plan/plan.hpp"},
      {"src/plan/search.cpp", "program/program.hpp"},
      {"src/plan/search.cpp", "sim/simulator.hpp"},
      {"src/program/compile.cpp", "exec/executor.hpp"},
      {"src/sim/simulator.cpp", "kernels/pool.hpp"},
      {"src/kernels/pool.cpp", "graph/graph.hpp"},
      {"src/wire/header.cpp", "transport/frame.hpp"},
      {"src/transport/inproc.cpp", "wire/header.hpp"},
      {"src/exec/executor.cpp", "cluster/worker.hpp"},
      {"src/exec/executor.cpp", "sim/simulator.hpp"},
      {"src/observe/chart.cpp", "cluster/worker.hpp"},
      {"src/cluster/coordinator.cpp", "darknet.h"},
      {"src/cluster/coordinator.cpp", "darknet/training/engine.hpp"},
      {"src/cluster/coordinator.cpp", "plugins/distributed/engine.hpp"},
      {"src/cluster/worker.cpp", "zmq.hpp"},
      {"src/transport/inproc.cpp", "zmq.h"},
      {"src/transport/inproc.cpp", "zmq_addon.hpp"},
      {"plugins/distributed/engine.cpp", "zmq.hpp"},
      {"darknet/commands/main.cpp", "dnnl.hpp"},
      {"darknet/commands/main.cpp", "darknet.h"},
      {"darknet/training/training_loop.cpp", "darknet.h"},
      {"darknet/training/training_loop.cpp", "darknet/commands/arguments.hpp"},
      {"darknet/upstream/weights_file.cpp", "plugins/distributed/wrapped_layers.hpp"},
      {"plugins/distributed/settings.cpp", "darknet/commands/arguments.hpp"},
      {"src/data/batch_loader.hpp", "darknet.h"},
      {"src/cfg/cfg_check.cpp", "data/label_file.hpp"},
      {"src/kernels/convolution_blas.cpp", "dnnl.hpp"},
      {"src/kernels/convolution_blas.cpp", "oneapi/dnnl/dnnl.hpp"},
      {"src/exec/onednn.cpp", "dnnl.hpp"},
      {"src/exec/executor.cpp", "opencv2/core.hpp"},
      {"darknet/upstream/image_opencv.cpp", "opencv2/opencv.hpp"},
      {"src/geometry/box.cpp", "../graph/graph.hpp"},
      {"src/helpers/text.cpp", "base/check.hpp"},
      {"darknet/commands/main.cpp", "tests/support/oracle.hpp"},
  };
  for (const auto& [file, header] : forbidden) CHECK_MESSAGE(violation(file, header), file, " may include ", header);
}

TEST_CASE("the include rules allow what the design allows") {
  const std::pair<const char*, const char*> allowed[] = {
      {"src/plan/plan.cpp", "plan/plan.hpp"},
      {"src/plan/plan.cpp", "graph/graph.hpp"},
      {"src/sim/simulator.cpp", "program/program.hpp"},
      {"src/exec/executor.cpp", "kernels/convolution.hpp"},
      {"src/cluster/coordinator.cpp", "transport/endpoint.hpp"},
      {"src/kernels/convolution_onednn.cpp", "dnnl.hpp"},
      {"src/transport/zmq_endpoint.cpp", "zmq.hpp"},
      {"src/wire/control.cpp", "nlohmann/json.hpp"},
      {"src/base/check.hpp", "vector"},
      {"plugins/distributed/engine.cpp", "darknet.h"},
      {"darknet/commands/main.cpp", "cluster/coordinator.hpp"},
      {"darknet/commands/engines.cpp", "plugins/distributed/distributed_engine.hpp"},
      {"plugins/distributed/distributed_engine.hpp", "darknet/training/engine.hpp"},
      {"darknet/upstream/image_opencv.cpp", "opencv2/core.hpp"},
  };
  for (const auto& [file, header] : allowed)
    CHECK_MESSAGE(!violation(file, header), file, " includes ", header, ": ", violation(file, header).value_or(""));
}

TEST_CASE("every spelling of an include is seen, and nothing else") {
  std::istringstream source(
      "#include <zmq.hpp>\n  #  include\t\"wire/header.hpp\"  // why\n// #include <dnnl.hpp>\n#include \"a.hpp\"\r\n"
      "const char* text = \"#include <b.hpp>\";\n");
  CHECK(included_headers(source) == std::vector<std::string>{"zmq.hpp", "wire/header.hpp", "a.hpp"});
}

TEST_CASE("tables: who may include whom in src/README.md") {
  std::string table = "| folder | may include, besides `base` |\n|---|---|\n";
  for (const auto& [folder, known] : kMayKnow)
    if (folder != "base")
      table += fmt::format("| `{}` | {} |\n", folder, known.empty() ? "nothing" : fmt::format("{}", fmt::join(known, ", ")));
  tessera::testing::hold("src/README.md", "includes", table);
}
