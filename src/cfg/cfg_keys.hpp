// Every section and key upstream's parser understands (its src/parser.c), with the values each takes, and the name of the
// [distributed] section, whose keys are in distributed_keys.hpp. What is not here would be ignored silently, so it is an error.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "cfg/cfg_file.hpp"

namespace tessera::cfg {

enum class ValueKind {
  kInteger,
  kPositive,
  kCount,
  kSwitch,
  kReal,
  kIntegers,
  kReals,
  kActivation,
  kPolicy,
  kCostType,
  kIouKind,
  kNmsKind,
  kText
};

// Whose key it is. Cfgs with keys, layers or activations of AlexeyAB's Darknet are read in that program's dialect.
enum class Origin {
  kUpstream,
  kAlexey,    // computed by plugins/layers
  kNoEffect,  // AlexeyAB's, without meaning on a CPU or for results: accepted with a line
};

struct KeySpec {
  std::string_view name;
  ValueKind kind;
  Origin origin = Origin::kUpstream;
};

struct SectionSpec {
  std::string_view name;   // canonical, as in the messages
  std::string_view alias;  // the short spelling, or ""
  std::span<const KeySpec> keys;
  Origin origin = Origin::kUpstream;
};

// Nothing for a section Darknet does not know.
const SectionSpec* find_section_spec(std::string_view name);

// Whether AlexeyAB's Darknet alone has this activation.
bool is_alexey_activation(std::string_view name);

// Whether the section needs AlexeyAB's program: its kind, a key, or an activation.
bool is_alexey_section(const CfgSection& section);

// Sections, keys and the form of every value; all mistakes, one `file:line: what; what to do` per line of the message.
// Keys that mean nothing on a CPU (foreign_keys.hpp) are taken out, with one warning for all.
[[nodiscard]] base::Status check_keys(CfgFile& file);

// One error of all these lines; none when there are none.
[[nodiscard]] base::Status all_mistakes(const std::vector<std::string>& mistakes);

}  // namespace tessera::cfg
