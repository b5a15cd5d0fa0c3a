// The networks that training.cpp measures: cfgs of this repository, cut and fitted to the generated pictures.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "darknet/cfg_check.hpp"

namespace tessera::bench {

inline constexpr int kClasses = 3;

struct Network {
  std::string name, cfg;  // cfg: a file of the cfg folder
  int layers;             // how many are kept, with a detection head behind them; 0: all, with their own heads
  int size, batch;
};

inline const std::vector<Network>& networks() {
  static const std::vector<Network> all{{"yolov2-tiny", "yolov2-tiny.cfg", 0, 416, 8},
                                        {"yolov2", "yolov2.cfg", 0, 416, 2},
                                        {"yolov2-16", "yolov2.cfg", 16, 608, 1},
                                        {"yolov3-tiny", "yolov3-tiny.cfg", 0, 416, 8},
                                        {"resnet18", "resnet18.cfg", 26, 224, 8}};
  return all;
}

inline void set_option(darknet::CfgSection& section, const std::string& key, const std::string& value) {
  for (darknet::CfgOption& option : section.options)
    if (option.key == key) {
      option.value = value;
      return;
    }
  section.options.push_back({key, value, 0});
}

inline std::string cfg_text(const darknet::CfgFile& file) {
  std::string text;
  for (const darknet::CfgSection& section : file.sections) {
    text += fmt::format("[{}]\n", section.name);
    for (const darknet::CfgOption& option : section.options) text += fmt::format("{}={}\n", option.key, option.value);
  }
  return text;
}

// The heads get our classes, and the convolution before each as many filters as that needs.
inline base::Status fit_heads(darknet::CfgFile& file) {
  for (std::size_t i = 1; i < file.sections.size(); ++i) {
    darknet::CfgSection& head = file.sections[i];
    if (head.name != "region" && head.name != "yolo") continue;
    const std::string mask = head.text("mask", "");
    const long boxes = mask.empty() ? head.integer("num", 1) : 1 + std::count(mask.begin(), mask.end(), ',');
    darknet::CfgSection& before = file.sections[i - 1];
    if (before.name != "convolutional")
      return base::error(base::ErrorCode::kInvalidArgument, "{}:{}: [{}] does not follow a [convolutional] layer", file.path, head.line, head.name);
    set_option(before, "filters", fmt::to_string(boxes * (kClasses + 5)));
    set_option(head, "classes", fmt::to_string(kClasses));
    set_option(head, "random", "0");
  }
  return {};
}

// The network without [distributed], to be trained for `iterations`. Errors: the file cannot be read or has fewer layers.
inline base::Result<darknet::CfgFile> training_cfg(const std::string& folder, const Network& network, int iterations) {
  TESSERA_ASSIGN(darknet::CfgFile file, darknet::read_cfg_file(folder + "/" + network.cfg));
  auto& sections = file.sections;
  std::erase_if(sections, [](const auto& section) { return section.name == "distributed"; });
  if (network.layers > 0) {
    const auto kept = static_cast<std::size_t>(network.layers) + 1;  // and [net]
    if (sections.size() < kept)
      return base::error(base::ErrorCode::kInvalidArgument, "{}: {} layers, {} needed", file.path, sections.size() - 1, network.layers);
    sections.resize(kept);
    sections.push_back({"convolutional", 0, {{"filters", "0", 0}, {"size", "1", 0}, {"stride", "1", 0}, {"activation", "linear", 0}}});
    sections.push_back({"region", 0, {{"num", "5", 0}, {"coords", "4", 0}, {"softmax", "1", 0}, {"jitter", ".2", 0},
                                      {"anchors", "1,1,2,2,3,3,4,4,5,5", 0}}});
  }
  TESSERA_TRY(fit_heads(file));
  darknet::CfgSection& net = sections.front();
  const std::vector<std::pair<std::string, int>> numbers{{"width", network.size}, {"height", network.size}, {"batch", network.batch},
                                                         {"subdivisions", 1}, {"max_batches", iterations}, {"burn_in", 0}};
  for (const auto& [key, value] : numbers) set_option(net, key, fmt::to_string(value));
  set_option(net, "learning_rate", "0.0001");  // small: random weights on few pictures must not diverge
  set_option(net, "policy", "constant");
  std::erase_if(net.options, [](const auto& option) { return option.key == "steps" || option.key == "scales"; });
  return file;
}

// `file` with a [distributed] section over all layers that can be wrapped.
inline darknet::CfgFile distributed_cfg(darknet::CfgFile file, const std::string& workers, const std::string& backend, int threads) {
  file.sections.insert(file.sections.begin() + 1,
                       {"distributed", 0, {{"workers", workers, 0}, {"backend", backend, 0}, {"threads", fmt::to_string(threads), 0}}});
  return file;
}

// Operations of the convolutions in one training iteration: two per multiply-add in the forward pass and in the two
// backward passes, but nobody needs the gradient of the pictures.
inline base::Result<double> convolution_flops(const darknet::CfgFile& file) {
  TESSERA_ASSIGN(const darknet::Cfg cfg, darknet::check_cfg(file));
  const darknet::CfgSection& net = file.sections.front();
  double flops = 0;
  for (std::size_t i = 0; i < cfg.layers.size(); ++i) {
    const darknet::CfgSection& section = file.sections[i + 1];
    if (section.name != "convolutional") continue;
    const darknet::LayerShape& out = cfg.layers[i];
    const double in_channels = i == 0 ? static_cast<double>(net.integer("channels", 3)) : static_cast<double>(cfg.layers[i - 1].c);
    const double side = static_cast<double>(section.integer("size", 1));
    const double multiply_adds = static_cast<double>(out.outputs) * in_channels * side * side / static_cast<double>(section.integer("groups", 1));
    flops += 2 * multiply_adds * (i == 0 ? 2 : 3);
  }
  return flops * static_cast<double>(net.integer("batch", 1));
}

}  // namespace tessera::bench
