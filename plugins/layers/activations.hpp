// Activations that upstream lacks. Formulas: mish x tanh(ln(1 + e^x)), swish x / (1 + e^-x), hard mish
// x (x > 0), x^2/2 + x (-2 < x <= 0), 0; relu6 min(max(x, 0), 6).
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tessera::layers {

enum class OwnActivation { kMish, kHardMish, kSwish, kRelu6 };

std::optional<OwnActivation> own_activation(std::string_view name);

// y = f(x).
float activate(float x, OwnActivation activation);
// f'(x). relu6 has none at its corners: 0 there.
float slope(float x, OwnActivation activation);

}  // namespace tessera::layers
