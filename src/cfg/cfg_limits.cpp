#include "cfg/cfg_limits.hpp"

#include <algorithm>
#include <cmath>
#include <sstream>

#include "base/text.hpp"
#include "cfg/cfg_keys.hpp"

namespace tessera::cfg {
namespace {

// Upstream's parser believes what a tree file says and uses it as indices.
std::string tree_mistake(const std::string& path, const std::vector<std::string>& lines, long classes) {
  if (classes > 0 && lines.size() != static_cast<std::size_t>(classes))
    return fmt::format("{} has {} lines, but classes={}", path, lines.size(), classes);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    std::istringstream words(lines[i]);
    std::string name, parent;
    words >> name >> parent;
    const auto index = base::to_integer(parent);
    if (!index || *index < -1 || *index >= static_cast<long>(i) || name.size() > 255)
      return fmt::format("{}:{}: '{}' is no class of a tree; write `name parent`, the parent's line counted from 0, or -1", path, i + 1,
                         base::quoted(lines[i]));
  }
  return "";
}

void set_option(CfgSection& section, const std::string& key, const std::string& value) {
  for (CfgOption& option : section.options)
    if (option.key == key) option.value = value;
}

bool fits(const Cfg& cfg, InputSize size) {
  constexpr double kMostWorkspace = 2e9;  // bytes; upstream's resize_network() aborts beyond
  CfgFile file = cfg.file;
  set_option(file.sections.front(), "width", std::to_string(size.width));
  set_option(file.sections.front(), "height", std::to_string(size.height));
  const auto checked = check_cfg(std::move(file));
  if (!checked || checked->layers.size() != cfg.layers.size()) return false;
  for (const LayerShape& layer : checked->layers)
    if (4.0 * static_cast<double>(layer.unrolled) > kMostWorkspace) return false;
  return true;
}

}  // namespace

base::Status check_named_files(const Cfg& cfg) {
  std::vector<std::string> mistakes;
  for (const CfgSection& section : cfg.file.sections)
    for (const char* key : {"map", "tree"}) {
      const CfgOption* option = section.find(key);
      if (!option) continue;
      const auto lines = base::read_lines(option->value, key);
      std::string mistake = lines ? "" : lines.error().message + " (paths are relative to the folder you are in)";
      if (lines && option->key == "tree")
        mistake = tree_mistake(option->value, *lines, section.name == "region" ? section.integer("classes", 20) : 0);
      if (!mistake.empty()) mistakes.push_back(fmt::format("{}:{}: {}={}: {}", cfg.file.path, option->line, key, option->value, mistake));
    }
  return all_mistakes(mistakes);
}

void set_batch_of_one(CfgFile& file) {
  for (const char* key : {"batch", "subdivisions", "time_steps"}) set_option(file.sections.front(), key, "1");
}

std::vector<InputSize> multi_scale_sizes(const Cfg& cfg) {
  const CfgSection& net = cfg.file.sections.front();
  const InputSize own{static_cast<int>(net.integer("width", 0)), static_cast<int>(net.integer("height", 0))};
  const int step = std::min(own.width, own.height) < 128 ? 8 : 32;
  const int least = std::max(1, static_cast<int>(std::ceil(0.7 * own.width / step))), most = static_cast<int>(1.4 * own.width / step);
  std::vector<InputSize> sizes;
  for (int i = least; i <= most; ++i) {
    const int width = step * i;
    const InputSize size{width,
                         std::max(step, step * static_cast<int>(std::lround(static_cast<double>(width) * own.height / own.width / step)))};
    if (fits(cfg, size)) sizes.push_back(size);
  }
  if (sizes.empty()) sizes.push_back(own);
  return sizes;
}

}  // namespace tessera::cfg
