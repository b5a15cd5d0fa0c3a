#include "tests/bench/support/network.hpp"

#include <algorithm>

namespace tessera::bench {
namespace {

void set_option(cfg::CfgSection& section, const std::string& key, const std::string& value) {
  for (cfg::CfgOption& option : section.options)
    if (option.key == key) {
      option.value = value;
      return;
    }
  section.options.push_back({key, value, 0});
}

// The heads get our classes, and the convolution before each as many filters as that needs.
base::Status fit_heads(cfg::CfgFile& file) {
  for (std::size_t i = 1; i < file.sections.size(); ++i) {
    cfg::CfgSection& head = file.sections[i];
    if (head.name != "region" && head.name != "yolo") continue;
    const std::string mask = head.text("mask", "");
    const long boxes = mask.empty() ? head.integer("num", 1) : 1 + std::count(mask.begin(), mask.end(), ',');
    cfg::CfgSection& before = file.sections[i - 1];
    if (before.name != "convolutional")
      return base::error(base::ErrorCode::kInvalidArgument, "{}:{}: [{}] does not follow a [convolutional] layer", file.path, head.line,
                         head.name);
    set_option(before, "filters", fmt::to_string(boxes * (kClasses + 5)));
    set_option(head, "classes", fmt::to_string(kClasses));
    set_option(head, "random", "0");
  }
  return {};
}

}  // namespace

std::string Network::title() const {
  return fmt::format("{} at {}, batch {}{}{}", name, size, batch, subdivisions > 1 ? fmt::format(" in {} passes", subdivisions) : "",
                     layers > 0 ? fmt::format(" (its first {} layers and a head)", layers) : "");
}

const std::vector<Network>& networks() {
  static const std::vector<Network> all{
      {"yolov2-tiny", "yolov2-tiny.cfg", 0, 416, 8, 4}, {"yolov2", "yolov2.cfg", 0, 416, 2, 4},
      {"yolov2-16", "yolov2.cfg", 16, 608, 1, 6},       {"yolov3-tiny", "yolov3-tiny.cfg", 0, 416, 8, 4},
      {"resnet18", "resnet18.cfg", 26, 224, 8, 4},      {"yolov2-tiny-64", "yolov2-tiny.cfg", 0, 416, 64, 4, 8}};
  return all;
}

base::Result<Network> find_network(const std::string& name) {
  for (const Network& network : networks())
    if (network.name == name) return network;
  return base::error(base::ErrorCode::kInvalidArgument, "there is no network {}; --help names them", name);
}

base::Result<cfg::CfgFile> plain_cfg(const std::string& folder, const Network& network, int iterations) {
  TESSERA_ASSIGN(cfg::CfgFile file, cfg::read_cfg_file(folder + "/" + network.cfg));
  auto& sections = file.sections;
  std::erase_if(sections, [](const auto& section) { return section.name == "distributed"; });
  if (network.layers > 0) {
    const auto kept = static_cast<std::size_t>(network.layers) + 1;  // and [net]
    if (sections.size() < kept)
      return base::error(base::ErrorCode::kInvalidArgument, "{}: {} layers, {} needed", file.path, sections.size() - 1, network.layers);
    sections.resize(kept);
    sections.push_back({"convolutional", 0, {{"filters", "0", 0}, {"size", "1", 0}, {"stride", "1", 0}, {"activation", "linear", 0}}});
    sections.push_back(
        {"region",
         0,
         {{"num", "5", 0}, {"coords", "4", 0}, {"softmax", "1", 0}, {"jitter", ".2", 0}, {"anchors", "1,1,2,2,3,3,4,4,5,5", 0}}});
  }
  TESSERA_TRY(fit_heads(file));
  cfg::CfgSection& net = sections.front();
  const std::vector<std::pair<std::string, int>> numbers{{"width", network.size},     {"height", network.size},
                                                         {"batch", network.batch},    {"subdivisions", network.subdivisions},
                                                         {"max_batches", iterations}, {"burn_in", 0}};
  for (const auto& [key, value] : numbers) set_option(net, key, fmt::to_string(value));
  set_option(net, "learning_rate", "0.0001");  // small: random weights on few pictures must not diverge
  set_option(net, "policy", "constant");
  std::erase_if(net.options, [](const auto& option) { return option.key == "steps" || option.key == "scales"; });
  return file;
}

cfg::CfgFile distributed_cfg(cfg::CfgFile file, const Options& options) {
  cfg::CfgSection section{"distributed", 0, {}};
  for (const auto& [key, value] : options) section.options.push_back({key, value, 0});
  file.sections.insert(file.sections.begin() + 1, section);
  return file;
}

std::string cfg_text(const cfg::CfgFile& file) {
  std::string text;
  for (const cfg::CfgSection& section : file.sections) {
    text += fmt::format("[{}]\n", section.name);
    for (const cfg::CfgOption& option : section.options) text += fmt::format("{}={}\n", option.key, option.value);
  }
  return text;
}

double ConvolutionLayer::forward_flops() const {
  const auto outputs = static_cast<double>(shape.out_c * shape.out_y() * shape.out_x());
  return 2 * outputs * static_cast<double>(shape.in_c * shape.kernel * shape.kernel) / static_cast<double>(groups);
}

base::Result<std::vector<ConvolutionLayer>> convolution_layers(const cfg::CfgFile& file) {
  TESSERA_ASSIGN(const cfg::Cfg cfg, cfg::check_cfg(file));
  const cfg::CfgSection& net = file.sections.front();
  cfg::LayerShape in{"net", 0, net.integer("channels", 3), net.integer("height", 0), net.integer("width", 0), 0};
  std::vector<ConvolutionLayer> layers;
  const std::size_t first = file.sections.size() - cfg.layers.size();  // after [net] and [distributed]
  for (std::size_t i = 0; i < cfg.layers.size(); ++i) {
    const cfg::CfgSection& section = file.sections[first + i];
    const cfg::LayerShape& out = cfg.layers[i];
    if (out.type == "convolutional") {
      const int size = static_cast<int>(section.integer("size", 1));
      const int stride = static_cast<int>(section.integer("stride", 1));
      const int pad = section.integer("pad", 0) ? size / 2 : static_cast<int>(section.integer("padding", 0));
      layers.push_back({static_cast<int>(i), {in.c, in.h, in.w, out.c, size, stride, pad}, section.integer("groups", 1)});
    }
    in = out;
  }
  return layers;
}

double training_flops(const std::vector<ConvolutionLayer>& layers, int batch) {
  double flops = 0;
  for (const ConvolutionLayer& layer : layers) flops += layer.forward_flops() * (layer.layer == 0 ? 2 : 3);
  return flops * batch;
}

double inference_flops(const std::vector<ConvolutionLayer>& layers, int batch) {
  double flops = 0;
  for (const ConvolutionLayer& layer : layers) flops += layer.forward_flops();
  return flops * batch;
}

}  // namespace tessera::bench
