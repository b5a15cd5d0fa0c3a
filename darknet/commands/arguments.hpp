// The command line: Darknet's conventions (`-dont_show` = `--dont-show` = `--DontShow`, options anywhere,
// before the sub-command too), types checked, unknown options refused with a suggestion.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"

namespace tessera::darknet {

enum class OptionKind {
  kFlag,     // takes no value
  kInteger,  // takes a whole number
  kReal,     // takes a number
  kText,     // takes any word
};

// One option as every command knows it: a name means the same, with the same kind, for all commands.
struct OptionSpec {
  const char* name;  // canonical: lower case, underscores, no dashes
  OptionKind kind;
  const char* help;
};

class Arguments {
 public:
  std::string program;                  // argv[0]
  std::vector<std::string> positional;  // command words first

  bool has(std::string_view name) const { return values_.find(name) != values_.end(); }
  // The value given for an option, or `fallback`. Kinds were checked by parse_arguments().
  std::string text(std::string_view name, const std::string& fallback = "") const;
  long integer(std::string_view name, long fallback) const;
  double real(std::string_view name, double fallback) const;

  // The positional argument after the command words, or "" when it was not given.
  std::string operand(std::size_t index) const;
  std::size_t operand_count() const { return positional.size() - command_words; }
  std::size_t command_words = 0;

  const std::map<std::string, std::string, std::less<>>& options() const { return values_; }
  void set(std::string name, std::string value) { values_[std::move(name)] = std::move(value); }

 private:
  std::map<std::string, std::string, std::less<>> values_;
};

// Splits `words` (argv without the program) by `options`, the union of what all commands know. Errors name
// the word and, for an unknown option, the nearest known one.
[[nodiscard]] base::Result<Arguments> parse_arguments(std::string program, std::span<const std::string> words,
                                                      std::span<const OptionSpec> options);

// `-Dont-Show`, `--dont_show` -> "dont_show"; "" for a word that is no option: no leading dash, a lone dash,
// or a negative number.
std::string option_name(std::string_view word);

}  // namespace tessera::darknet
