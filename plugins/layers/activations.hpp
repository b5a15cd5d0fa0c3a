// Activations that upstream lacks, by name (kernels/activation.hpp has the formulas).
#pragma once

#include <optional>
#include <string_view>

#include "kernels/activation.hpp"

namespace tessera::layers {

std::optional<kernels::Activation> own_activation(std::string_view name);

}  // namespace tessera::layers
