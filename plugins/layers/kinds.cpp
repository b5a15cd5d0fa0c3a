#include "plugins/layers/kinds.hpp"

#include <algorithm>
#include <map>

#include "cfg/cfg_keys.hpp"

namespace tessera::layers {
namespace {

constexpr long kUpstreamBoxes = 90;  // per picture, of upstream's [yolo]

bool heads_are_ours(const cfg::Cfg& cfg) {
  return cfg.alexey || std::any_of(cfg.file.sections.begin(), cfg.file.sections.end(), [](const cfg::CfgSection& section) {
           return section.name == "yolo" && section.integer("max", kUpstreamBoxes) > kUpstreamBoxes;
         });
}

darknet::Maker find(const cfg::Cfg& cfg, const cfg::CfgSection& section, const std::string& type) {
  static const std::map<std::string, darknet::Maker> kOurs = {
      {"scale_channels", make_scale_channels}, {"sam", make_sam}, {"reorg3d", make_reorg3d}, {"Gaussian_yolo", make_gaussian_yolo}};
  // Upstream's but for some keys and activations.
  static const std::map<std::string, darknet::Maker> kExtended = {
      {"convolutional", make_convolution}, {"route", make_route}, {"maxpool", make_maxpool}, {"shortcut", make_shortcut}};
  if (const auto ours = kOurs.find(type); ours != kOurs.end()) return ours->second;
  if (type == "yolo" && heads_are_ours(cfg)) return make_yolo;
  if (type == "avgpool" && cfg.alexey) return make_avgpool;
  const auto found = kExtended.find(type);
  return found != kExtended.end() && cfg::is_alexey_section(section) ? found->second : nullptr;
}

}  // namespace

void join_layer_kinds() { darknet::set_layer_makers(find); }

}  // namespace tessera::layers
