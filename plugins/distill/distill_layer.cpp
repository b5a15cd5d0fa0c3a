#include "plugins/distill/distill_layer.hpp"

#include <cstdlib>
#include <numeric>

#include "base/check.hpp"
#include "plugins/distill/distill_loss.hpp"

namespace tessera::distill {
namespace {

void forward(layer l, network net) {
  const auto classes = static_cast<std::size_t>(l.outputs), columns = static_cast<std::size_t>(truth_columns(l.outputs));
  const std::vector<float> none(classes);
  const DistillSettings settings{l.temperature, l.alpha};
  for (std::size_t row = 0; row < static_cast<std::size_t>(l.batch); ++row) {
    const auto part = [&](float* values) { return std::span(values + row * classes, classes); };
    const std::span<const float> truth = net.truth ? std::span<const float>(net.truth + row * columns, columns) : std::span<const float>();
    const bool taught = !truth.empty() && truth[2 * classes] != 0;
    const float loss = distill_loss(settings, part(net.input), truth.empty() ? none : truth.first(classes),
                                    taught ? truth.subspan(classes, classes) : std::span<const float>(), part(l.output), part(l.delta));
    l.loss[row] = loss;
  }
  l.cost[0] = std::accumulate(l.loss, l.loss + l.batch, 0.0f);
}

}  // namespace

void install(network* net, const cfg::Cfg& cfg) {
  const cfg::CfgSection& section = cfg.file.sections.back();
  if (section.name != "distill") return;
  const DistillSettings defaults;
  install(net, {static_cast<float>(section.real("temperature", defaults.temperature)),
                static_cast<float>(section.real("alpha", defaults.alpha))});
}

void install(network* net, const DistillSettings& settings) {
  layer& l = net->layers[net->n - 1];
  TESSERA_CHECK(l.type == SOFTMAX, "layer {} is of kind {}", net->n - 1, static_cast<int>(l.type));
  l.temperature = settings.temperature;
  l.alpha = settings.alpha;
  l.forward = forward;
  net->truths = l.truths = truth_columns(l.outputs);
  std::free(net->truth);
  net->truth =
      static_cast<float*>(std::calloc(static_cast<std::size_t>(net->truths) * static_cast<std::size_t>(net->batch), sizeof(float)));
  TESSERA_CHECK(net->truth, "no memory for {} truths", net->truths);
}

}  // namespace tessera::distill
