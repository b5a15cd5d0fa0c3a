// Keys and sections of other Darknets (AlexeyAB's, hank-ai's) that are not computed here, and what leaving them out would
// change: nobody should find out by training for a week.
#pragma once

#include <string>
#include <string_view>

namespace tessera::cfg {

enum class Effect {
  kUnknown,    // no Darknet known here has such a key
  kInference,  // it changes what a trained network finds: never ignored
  kTraining,   // it changes training only: a trained network finds the same without it
  kNothing,    // no meaning on a CPU, or none with this value: accepted
};

// Of `key=value` in a section (its canonical name).
Effect effect_of(std::string_view section, std::string_view key, const std::string& value);

// What a message says of it: "it changes what a trained network finds (inference); ...".
std::string_view advice(Effect effect);

// Has another Darknet a section of this name?
bool is_foreign_section(std::string_view name);

}  // namespace tessera::cfg
