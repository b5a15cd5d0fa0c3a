#include "cfg/foreign_keys.hpp"

#include <algorithm>

#include "base/text.hpp"

namespace tessera::cfg {
namespace {

using enum Effect;

struct ForeignKey {
  std::string_view section;  // "*": any layer
  std::string_view key;
  Effect effect;
  std::string_view neutral = "";  // the value with which it means nothing
};

constexpr ForeignKey kForeign[] = {
    {"yolo", "embedding_layer", kInference},
    {"region", "scale_x_y", kInference, "1"},
    {"region", "nms_kind", kInference, "greedynms"},
    {"region", "focal_loss", kTraining, "0"},
    {"route", "stream", kNothing},
    {"convolutional", "antialiasing", kInference, "0"},
    {"convolutional", "share_index", kInference},
    {"convolutional", "cbn", kInference, "0"},
    {"convolutional", "coordconv", kInference, "0"},
    {"convolutional", "deform", kInference, "0"},
    {"convolutional", "sway", kInference, "0"},
    {"convolutional", "rotate", kInference, "0"},
    {"convolutional", "stretch", kInference, "0"},
    {"convolutional", "stretch_sway", kInference, "0"},
    {"convolutional", "reverse", kInference, "0"},
    {"convolutional", "assisted_excitation", kTraining, "0"},
    {"convolutional", "angle", kTraining},
    {"convolutional", "grad_centr", kTraining, "0"},
    {"maxpool", "antialiasing", kInference, "0"},
    {"dropout", "dropblock", kTraining, "0"},
    {"dropout", "dropblock_size_rel", kTraining},
    {"dropout", "dropblock_size_abs", kTraining},
    {"net", "ema_start", kTraining},
    {"net", "lr_decay", kTraining},
    {"net", "adversarial_lr", kTraining, "0"},
    {"net", "contrastive", kTraining, "0"},
    {"net", "contrastive_color", kTraining, "0"},
    {"net", "contrastive_jit_flip", kTraining, "0"},
    {"net", "unsupervised", kTraining, "0"},
    {"net", "badlabels_rejection_percentage", kTraining, "0"},
    {"net", "badlabels_reject_threshold", kTraining, "0"},
    {"net", "num_sigmas_reject_badlabels", kTraining, "0"},
    {"net", "equidistant_point", kTraining, "0"},
    {"net", "weights_reject_freq", kTraining, "0"},
    {"net", "show_receptive_field", kNothing},
    {"net", "benchmark_layers", kNothing},
    {"net", "seen", kNothing},  // left over in upstream's own cfgs, as the next one
    {"rnn", "hidden", kNothing},
    {"*", "keepdelta", kTraining, "0"},
    {"*", "inverse", kTraining, "0"},
    {"*", "show_details", kNothing},
};

constexpr std::string_view kForeignSections[] = {"local_avgpool", "reorg_old", "contrastive", "conv_lstm",     "history",
                                                 "empty",         "silence",   "implicit",    "maxpool_depth", "bbox_transform"};

}  // namespace

Effect effect_of(std::string_view section, std::string_view key, const std::string& value) {
  for (const ForeignKey& one : kForeign) {
    if (one.key != key || (one.section != section && (one.section != "*" || section == "net" || section == "distributed"))) continue;
    const auto given = base::to_real(value), neutral = base::to_real(one.neutral);
    const bool same = !one.neutral.empty() && (value == one.neutral || (given && neutral && *given == *neutral));
    return same ? kNothing : one.effect;
  }
  return kUnknown;
}

std::string_view advice(Effect effect) {
  switch (effect) {
    case kInference:
      return "it changes what a trained network finds (inference), from how boxes are decoded to what a layer computes, and is not "
             "computed here; without it the network must be trained anew";
    case kTraining:
      return "it changes training only, and is not done here; remove it to train without it; a trained network finds the same";
    default:
      return "remove it (Darknet would ignore it silently)";
  }
}

bool is_foreign_section(std::string_view name) {
  return std::find(std::begin(kForeignSections), std::end(kForeignSections), name) != std::end(kForeignSections);
}

}  // namespace tessera::cfg
