#include "cfg/cfg_keys.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/text.hpp"
#include "cfg/distributed_keys.hpp"
#include "cfg/foreign_keys.hpp"

namespace tessera::cfg {
namespace {

using enum ValueKind;
using enum Origin;

// Read by upstream for every layer.
constexpr KeySpec kLayerKeys[] = {{"truth", kSwitch},          {"onlyforward", kSwitch},
                                  {"stopbackward", kSwitch},   {"dontsave", kSwitch},
                                  {"dontload", kSwitch},       {"numload", kCount},
                                  {"dontloadscales", kSwitch}, {"learning_rate", kReal},
                                  {"smooth", kReal},           {"train_only_bn", kSwitch, kNoEffect}};

constexpr KeySpec kNet[] = {{"batch", kPositive},
                            {"subdivisions", kPositive},
                            {"time_steps", kPositive},
                            {"notruth", kSwitch},
                            {"random", kSwitch},
                            {"learning_rate", kReal},
                            {"momentum", kReal},
                            {"decay", kReal},
                            {"adam", kSwitch},
                            {"B1", kReal},
                            {"B2", kReal},
                            {"eps", kReal},
                            {"amsgrad", kSwitch},
                            {"width", kPositive},
                            {"height", kPositive},
                            {"channels", kPositive},
                            {"inputs", kCount},
                            {"max_crop", kCount},
                            {"min_crop", kCount},
                            {"max_ratio", kReal},
                            {"min_ratio", kReal},
                            {"center", kSwitch},
                            {"clip", kReal},
                            {"angle", kReal},
                            {"aspect", kReal},
                            {"saturation", kReal},
                            {"exposure", kReal},
                            {"hue", kReal},
                            {"policy", kPolicy},
                            {"burn_in", kCount},
                            {"power", kReal},
                            {"step", kPositive},
                            {"scale", kReal},
                            {"steps", kIntegers},
                            {"scales", kReals},
                            {"gamma", kReal},
                            {"max_batches", kCount},
                            {"letter_box", kSwitch, kAlexey},
                            {"flip", kSwitch, kAlexey},
                            {"blur", kCount, kAlexey},
                            {"mixup", kCount, kAlexey},
                            {"cutmix", kSwitch, kAlexey},
                            {"mosaic", kSwitch, kAlexey},
                            {"mosaic_bound", kSwitch, kAlexey},
                            {"gaussian_noise", kCount, kAlexey},
                            {"ema_alpha", kReal, kAlexey},
                            {"learning_rate_min", kReal, kAlexey},
                            {"batches_per_cycle", kPositive, kAlexey},
                            {"batches_cycle_mult", kReal, kAlexey},
                            {"sgdr_cycle", kPositive, kAlexey},
                            {"sgdr_mult", kReal, kAlexey},
                            {"max_epochs", kCount, kNoEffect},
                            {"max_chart_loss", kReal, kNoEffect},
                            {"optimized_memory", kCount, kNoEffect},
                            {"workspace_size_limit_MB", kCount, kNoEffect},
                            {"dynamic_minibatch", kSwitch, kNoEffect},
                            {"augment_speed", kCount, kNoEffect},
                            {"track", kSwitch, kNoEffect},
                            {"sequential_subdivisions", kCount, kNoEffect},
                            {"init_sequential_subdivisions", kCount, kNoEffect},
                            {"loss_scale", kReal, kNoEffect},
                            {"use_cuda_graph", kSwitch, kNoEffect},
                            {"try_fix_nan", kSwitch, kNoEffect},
                            {"seq_scales", kReals, kNoEffect},
                            {"resize_step", kPositive, kNoEffect},
                            {"attention", kSwitch, kNoEffect},
                            {"show_details", kSwitch, kNoEffect},
                            {"cudnn_half", kSwitch, kNoEffect},
                            {"label_smooth_eps", kReal, kAlexey}};
constexpr KeySpec kConvolutional[] = {{"filters", kPositive},
                                      {"size", kPositive},
                                      {"stride", kPositive},
                                      {"pad", kCount},
                                      {"padding", kCount},
                                      {"groups", kPositive},
                                      {"activation", kActivation},
                                      {"binary", kSwitch},
                                      {"xnor", kSwitch},
                                      {"flipped", kSwitch},
                                      {"batch_normalize", kSwitch},
                                      {"dot", kReal},
                                      {"dilation", kPositive, kAlexey},
                                      {"stride_x", kPositive, kAlexey},
                                      {"stride_y", kPositive, kAlexey},
                                      {"bin_output", kSwitch, kNoEffect}};
constexpr KeySpec kDeconvolutional[] = {{"filters", kPositive}, {"size", kPositive},         {"stride", kPositive},       {"pad", kCount},
                                        {"padding", kCount},    {"activation", kActivation}, {"batch_normalize", kSwitch}};
constexpr KeySpec kLocal[] = {
    {"filters", kPositive}, {"size", kPositive}, {"stride", kPositive}, {"pad", kCount}, {"activation", kActivation}};
constexpr KeySpec kActivationSection[] = {{"activation", kActivation}};
constexpr KeySpec kRnn[] = {{"output", kPositive}, {"activation", kActivation}, {"batch_normalize", kSwitch}, {"shortcut", kSwitch}};
constexpr KeySpec kGru[] = {{"output", kPositive}, {"batch_normalize", kSwitch}, {"tanh", kSwitch}};
constexpr KeySpec kLstm[] = {{"output", kPositive}, {"batch_normalize", kSwitch}};
constexpr KeySpec kCrnn[] = {{"output_filters", kPositive},
                             {"hidden_filters", kPositive},
                             {"activation", kActivation},
                             {"batch_normalize", kSwitch},
                             {"shortcut", kSwitch}};
constexpr KeySpec kConnected[] = {{"output", kPositive}, {"activation", kActivation}, {"batch_normalize", kSwitch}};
constexpr KeySpec kSoftmax[] = {{"groups", kPositive}, {"temperature", kReal}, {"tree", kText}, {"spatial", kReal}, {"noloss", kSwitch}};
constexpr KeySpec kDistill[] = {{"temperature", kReal}, {"alpha", kReal}};  // our own (plugins/distill)
// Our own, too; what they mean and their defaults: plugins/distill/gkt_settings.hpp.
constexpr KeySpec kGkt[] = {{"edge", kText},         {"edges", kPositive},       {"lda", kReal},
                            {"rounds", kPositive},   {"edge_epochs", kPositive}, {"server_epochs", kIntegers},
                            {"temperature", kReal},  {"alpha", kReal},           {"transfer", kText},
                            {"method", kText},       {"match", kText},           {"logits", kText},
                            {"average", kSwitch},    {"features", kText},        {"images", kCount},
                            {"valid_images", kCount}};
constexpr KeySpec kYolo[] = {{"classes", kPositive},
                             {"num", kPositive},
                             {"mask", kIntegers},
                             {"max", kPositive},
                             {"jitter", kReal},
                             {"anchors", kReals},
                             {"map", kText},
                             {"ignore_thresh", kReal},
                             {"truth_thresh", kReal},
                             {"random", kReal},
                             {"scale_x_y", kReal, kAlexey},
                             {"new_coords", kSwitch, kAlexey},
                             {"iou_loss", kIouKind, kAlexey},
                             {"iou_thresh_kind", kIouKind, kAlexey},
                             {"iou_normalizer", kReal, kAlexey},
                             {"cls_normalizer", kReal, kAlexey},
                             {"obj_normalizer", kReal, kAlexey},
                             {"iou_thresh", kReal, kAlexey},
                             {"max_delta", kReal, kAlexey},
                             {"objectness_smooth", kSwitch, kAlexey},
                             {"label_smooth_eps", kReal, kAlexey},
                             {"focal_loss", kSwitch, kAlexey},
                             {"counters_per_class", kReals, kAlexey},
                             {"nms_kind", kNmsKind, kAlexey},
                             {"beta_nms", kReal, kAlexey},
                             {"resize", kReal, kAlexey},
                             {"uc_normalizer", kReal, kNoEffect},
                             {"delta_normalizer", kReal, kNoEffect},
                             {"show_details", kSwitch, kAlexey},
                             {"track_history_size", kCount, kNoEffect},
                             {"sim_thresh", kReal, kNoEffect},
                             {"dets_for_track", kCount, kNoEffect},
                             {"dets_for_show", kCount, kNoEffect},
                             {"track_ciou_norm", kReal, kNoEffect}};
// AlexeyAB's head with uncertainties.
constexpr KeySpec kGaussianYolo[] = {{"classes", kPositive},
                                     {"num", kPositive},
                                     {"mask", kIntegers},
                                     {"max", kPositive},
                                     {"jitter", kReal},
                                     {"anchors", kReals},
                                     {"map", kText},
                                     {"ignore_thresh", kReal},
                                     {"truth_thresh", kReal},
                                     {"random", kReal},
                                     {"uc_normalizer", kReal, kAlexey},
                                     {"yolo_point", kText, kAlexey},
                                     {"scale_x_y", kReal, kAlexey},
                                     {"new_coords", kSwitch, kAlexey},
                                     {"iou_loss", kIouKind, kAlexey},
                                     {"iou_thresh_kind", kIouKind, kAlexey},
                                     {"iou_normalizer", kReal, kAlexey},
                                     {"cls_normalizer", kReal, kAlexey},
                                     {"obj_normalizer", kReal, kAlexey},
                                     {"iou_thresh", kReal, kAlexey},
                                     {"max_delta", kReal, kAlexey},
                                     {"objectness_smooth", kSwitch, kAlexey},
                                     {"label_smooth_eps", kReal, kAlexey},
                                     {"focal_loss", kSwitch, kAlexey},
                                     {"counters_per_class", kReals, kAlexey},
                                     {"nms_kind", kNmsKind, kAlexey},
                                     {"beta_nms", kReal, kAlexey},
                                     {"resize", kReal, kAlexey},
                                     {"delta_normalizer", kReal, kNoEffect},
                                     {"show_details", kSwitch, kAlexey},
                                     {"track_history_size", kCount, kNoEffect},
                                     {"sim_thresh", kReal, kNoEffect},
                                     {"dets_for_track", kCount, kNoEffect},
                                     {"dets_for_show", kCount, kNoEffect},
                                     {"track_ciou_norm", kReal, kNoEffect}};
constexpr KeySpec kFrom[] = {{"from", kInteger, kAlexey}, {"activation", kActivation}, {"scale_wh", kSwitch, kAlexey}};
constexpr KeySpec kReorg3d[] = {{"stride", kPositive, kAlexey}};
constexpr KeySpec kRegion[] = {{"classes", kPositive},    {"coords", kPositive}, {"num", kPositive},      {"log", kSwitch},
                               {"sqrt", kSwitch},         {"softmax", kSwitch},  {"background", kSwitch}, {"max", kPositive},
                               {"jitter", kReal},         {"rescore", kSwitch},  {"thresh", kReal},       {"classfix", kInteger},
                               {"absolute", kSwitch},     {"random", kSwitch},   {"coord_scale", kReal},  {"object_scale", kReal},
                               {"noobject_scale", kReal}, {"mask_scale", kReal}, {"class_scale", kReal},  {"bias_match", kSwitch},
                               {"tree", kText},           {"map", kText},        {"anchors", kReals}};
constexpr KeySpec kDetection[] = {{"classes", kPositive}, {"coords", kPositive},  {"num", kPositive},      {"side", kPositive},
                                  {"rescore", kSwitch},   {"softmax", kSwitch},   {"sqrt", kSwitch},       {"max", kPositive},
                                  {"forced", kSwitch},    {"coord_scale", kReal}, {"object_scale", kReal}, {"noobject_scale", kReal},
                                  {"class_scale", kReal}, {"jitter", kReal},      {"random", kSwitch},     {"reorg", kSwitch}};
constexpr KeySpec kIseg[] = {{"classes", kPositive}, {"ids", kPositive}};
constexpr KeySpec kCost[] = {{"type", kCostType}, {"scale", kReal}, {"ratio", kReal}, {"noobj", kReal}, {"thresh", kReal}};
constexpr KeySpec kCrop[] = {{"crop_height", kPositive}, {"crop_width", kPositive}, {"flip", kSwitch}, {"angle", kReal},
                             {"saturation", kReal},      {"exposure", kReal},       {"shift", kReal},  {"noadjust", kSwitch}};
constexpr KeySpec kReorg[] = {{"stride", kPositive}, {"reverse", kSwitch}, {"flatten", kSwitch}, {"extra", kCount}};
constexpr KeySpec kMaxpool[] = {{"size", kPositive},
                                {"stride", kPositive},
                                {"padding", kCount},
                                {"stride_x", kPositive, kAlexey},
                                {"stride_y", kPositive, kAlexey},
                                {"maxpool_depth", kSwitch, kAlexey},
                                {"out_channels", kPositive, kAlexey}};
constexpr KeySpec kDropout[] = {{"probability", kReal}};
constexpr KeySpec kNormalization[] = {{"alpha", kReal}, {"beta", kReal}, {"kappa", kReal}, {"size", kPositive}};
constexpr KeySpec kShortcut[] = {{"from", kIntegers}, {"activation", kActivation},      {"alpha", kReal},
                                 {"beta", kReal},     {"weights_type", kText, kAlexey}, {"weights_normalization", kText, kAlexey}};
constexpr KeySpec kRoute[] = {{"layers", kIntegers}, {"groups", kPositive, kAlexey}, {"group_id", kCount, kAlexey}};
constexpr KeySpec kUpsample[] = {{"stride", kInteger}, {"scale", kReal}};
constexpr std::span<const KeySpec> kNoKeys;

constexpr SectionSpec kSections[] = {
    {"net", "network", kNet},
    {"convolutional", "conv", kConvolutional},
    {"deconvolutional", "deconv", kDeconvolutional},
    {"local", "", kLocal},
    {"activation", "", kActivationSection},
    {"logistic", "", kNoKeys},
    {"l2norm", "", kNoKeys},
    {"rnn", "", kRnn},
    {"gru", "", kGru},
    {"lstm", "", kLstm},
    {"crnn", "", kCrnn},
    {"connected", "conn", kConnected},
    {"softmax", "soft", kSoftmax},
    {"distill", "", kDistill},
    {"yolo", "", kYolo},
    {"region", "", kRegion},
    {"detection", "", kDetection},
    {"iseg", "", kIseg},
    {"cost", "", kCost},
    {"crop", "", kCrop},
    {"reorg", "", kReorg},
    {"maxpool", "max", kMaxpool},
    {"avgpool", "avg", kNoKeys},
    {"dropout", "", kDropout},
    {"normalization", "lrn", kNormalization},
    {"batchnorm", "", kNoKeys},
    {"shortcut", "", kShortcut},
    {"route", "", kRoute},
    {"upsample", "", kUpsample},
    {"distributed", "", kNoKeys},
    {"gkt", "", kGkt},
    {"Gaussian_yolo", "", kGaussianYolo, kAlexey},
    {"scale_channels", "", kFrom, kAlexey},
    {"sam", "", kFrom, kAlexey},
    {"reorg3d", "", kReorg3d, kAlexey},
};

constexpr std::string_view kActivations[] = {"linear", "leaky", "relu",  "logistic", "tanh",  "elu",  "selu",      "loggy", "relie",
                                             "ramp",   "plse",  "stair", "hardtan",  "lhtan", "mish", "hard_mish", "swish", "relu6"};
constexpr std::string_view kAlexeyActivations[] = {"mish", "hard_mish", "swish", "relu6"};
constexpr std::string_view kPolicies[] = {"constant", "step", "steps", "exp", "poly", "sigmoid", "random", "sgdr"};
constexpr std::string_view kIous[] = {"mse", "iou", "giou", "diou", "ciou"};
constexpr std::string_view kNms[] = {"default", "greedynms", "diounms"};
constexpr std::string_view kCosts[] = {"sse", "masked", "L1", "seg", "smooth", "wgan"};

const KeySpec* find_key(const SectionSpec& spec, std::string_view name) {
  const auto in = [&](std::span<const KeySpec> keys) -> const KeySpec* {
    const auto found = std::find_if(keys.begin(), keys.end(), [&](const KeySpec& key) { return key.name == name; });
    return found == keys.end() ? nullptr : &*found;
  };
  if (const KeySpec* own = in(spec.keys)) return own;
  return spec.name == "net" || spec.name == "distributed" || spec.name == "gkt" ? nullptr : in(kLayerKeys);
}

std::string one_of(std::span<const std::string_view> names) {
  std::string text;
  for (const std::string_view name : names) text += (text.empty() ? "" : ", ") + std::string(name);
  return text;
}

bool contains(std::span<const std::string_view> names, const std::string& value) {
  return std::find(names.begin(), names.end(), value) != names.end();
}

bool all_parts(const std::string& value, auto&& accepts) {
  const std::vector<std::string> parts = base::split(value, ',');
  return std::all_of(parts.begin(), parts.end(), accepts);
}

constexpr long kMostInteger = 2000000000;  // fits upstream's int

// Empty when `value` is good, else what it should be.
std::string wanted(ValueKind kind, const std::string& value) {
  const auto whole = base::to_integer(value);
  const auto at_least = [&](long least) { return whole && *whole >= least && *whole <= kMostInteger; };
  const auto integer = [](const std::string& part) { return std::abs(base::to_integer(part).value_or(LONG_MAX)) <= kMostInteger; };
  const auto real = [](const std::string& part) { return std::isfinite(static_cast<float>(base::to_real(part).value_or(NAN))); };
  switch (kind) {
    case kInteger:
      return whole && *whole >= -kMostInteger && *whole <= kMostInteger ? "" : "a whole number";
    case kPositive:
      return at_least(1) ? "" : "a whole number of at least 1";
    case kCount:
      return at_least(0) ? "" : "a whole number of at least 0";
    case kSwitch:
      return whole && (*whole == 0 || *whole == 1) ? "" : "0 or 1";
    case kReal:
      return real(value) ? "" : "a number";
    case kIntegers:
      return all_parts(value, integer) ? "" : "whole numbers with commas between";
    case kReals:
      return all_parts(value, real) ? "" : "numbers with commas between";
    case kActivation:
      return contains(kActivations, value) ? "" : "one of " + one_of(kActivations);
    case kPolicy:
      return contains(kPolicies, value) ? "" : "one of " + one_of(kPolicies);
    case kCostType:
      return contains(kCosts, value) ? "" : "one of " + one_of(kCosts);
    case kIouKind:
      return contains(kIous, value) ? "" : "one of " + one_of(kIous);
    case kNmsKind:
      return contains(kNms, value) ? "" : "one of " + one_of(kNms);
    case kText:
      return "";
  }
  return "";
}

std::string unknown_key(const SectionSpec& spec, const CfgOption& option) {
  const Effect effect = effect_of(spec.name, option.key, option.value);
  if (effect != Effect::kUnknown) return fmt::format("[{}] has no key '{}': {}", spec.name, option.key, advice(effect));
  std::vector<std::string> names;
  for (const KeySpec& key : spec.keys) names.emplace_back(key.name);
  if (spec.name == "distributed")
    for (const DistributedKey& key : distributed_keys()) names.emplace_back(key.name);
  else if (spec.name != "net" && spec.name != "gkt")
    for (const KeySpec& key : kLayerKeys) names.emplace_back(key.name);
  const std::string near = base::nearest(option.key, names);
  return fmt::format("[{}] has no key '{}'{}", spec.name, base::quoted(option.key),
                     near.empty() ? fmt::format("; {}", advice(effect)) : fmt::format("; did you mean '{}'?", near));
}

bool is_distributed_key(std::string_view name) {
  const auto keys = distributed_keys();
  return std::any_of(keys.begin(), keys.end(), [&](const DistributedKey& key) { return key.name == name; });
}

// "" when there is nothing to say.
std::string option_mistake(const SectionSpec& spec, const CfgOption& option) {
  // Their values are judged when the section is read (distributed_keys.hpp).
  if (spec.name == "distributed") return is_distributed_key(option.key) ? "" : unknown_key(spec, option);
  const KeySpec* key = find_key(spec, option.key);
  if (!key) return unknown_key(spec, option);
  const std::string form = wanted(key->kind, option.value);
  return form.empty() ? "" : fmt::format("{}={} is no good value; it must be {}", option.key, base::quoted(option.value), form);
}

std::string section_mistake(const CfgSection& section) {
  std::vector<std::string> names;
  for (const SectionSpec& known : kSections) names.emplace_back(known.name);
  const std::string near = is_foreign_section(section.name) ? "" : base::nearest(section.name, names);
  return fmt::format("there is no section [{}]{}", base::quoted(section.name),
                     near.empty() ? "; this network cannot be built here: the layer changes what a trained network finds (inference)"
                                  : fmt::format("; did you mean [{}]?", near));
}

}  // namespace

const SectionSpec* find_section_spec(std::string_view name) {
  for (const SectionSpec& spec : kSections)
    if (spec.name == name || (!spec.alias.empty() && spec.alias == name)) return &spec;
  return nullptr;
}

bool is_alexey_activation(std::string_view name) { return contains(kAlexeyActivations, std::string(name)); }

bool is_alexey_section(const CfgSection& section) {
  const SectionSpec* spec = find_section_spec(section.name);
  if (!spec) return false;
  return spec->origin == kAlexey || std::any_of(section.options.begin(), section.options.end(), [&](const CfgOption& option) {
           const KeySpec* key = find_key(*spec, option.key);
           return (key && key->origin == kAlexey) || (key && key->kind == kActivation && is_alexey_activation(option.value)) ||
                  (option.key == "policy" && option.value == "sgdr") ||
                  (section.name == "shortcut" && option.value.find(',') != std::string::npos);
         });
}

base::Status check_keys(CfgFile& file) {
  std::vector<std::string> mistakes;
  std::string without_meaning;
  for (CfgSection& section : file.sections) {
    const SectionSpec* spec = find_section_spec(section.name);
    if (!spec) {
      mistakes.push_back(fmt::format("{}:{}: {}", file.path, section.line, section_mistake(section)));
      continue;
    }
    std::erase_if(section.options, [&](const CfgOption& option) {
      const KeySpec* key = find_key(*spec, option.key);
      if (key ? key->origin != kNoEffect : effect_of(spec->name, option.key, option.value) != Effect::kNothing) return false;
      without_meaning += fmt::format("{}{} (line {})", without_meaning.empty() ? "" : ", ", option.key, option.line);
      return true;
    });
    for (const CfgOption& option : section.options)
      if (const std::string mistake = option_mistake(*spec, option); !mistake.empty())
        mistakes.push_back(fmt::format("{}:{}: {}", file.path, option.line, mistake));
  }
  if (!without_meaning.empty()) file.warnings.push_back(fmt::format("{}: without effect here: {}", file.path, without_meaning));
  return all_mistakes(mistakes);
}

base::Status all_mistakes(const std::vector<std::string>& mistakes) {
  if (mistakes.empty()) return {};
  return base::error(base::ErrorCode::kInvalidArgument, "{}", fmt::join(mistakes, "\n"));
}

}  // namespace tessera::cfg
