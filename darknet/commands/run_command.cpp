#include "darknet/commands/run_command.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "base/file_kind.hpp"
#include "base/text.hpp"

namespace tessera::darknet {
namespace {

std::string usage(const Command& command) { return fmt::format("usage: darknet {} {}", command.words, command.operands); }

// Options the command has no meaning for: those of other Darknets get one line, the others are mistakes.
int check_options(const Command& command, const Arguments& arguments) {
  for (const auto& [name, value] : arguments.options()) {
    if (std::find(command.options.begin(), command.options.end(), name) != command.options.end()) continue;
    if (is_accepted_without_effect(name)) {
      if (name != "dont_show") fmt::print(stderr, "option -{} has no meaning here and is ignored\n", name);
      continue;
    }
    return print_error(fmt::format("`darknet {}` has no option -{}; `darknet help` lists all options", command.words, name), kExitUsage);
  }
  return 0;
}

base::FileKind kind_of_slot(const std::string& slot) {
  return slot == "DATA"      ? base::FileKind::kData
         : slot == "CFG"     ? base::FileKind::kCfg
         : slot == "WEIGHTS" ? base::FileKind::kWeights
         : slot == "IMAGE"   ? base::FileKind::kImage
                             : base::FileKind::kUnknown;
}

// Files are told apart by what they are, so any order will do: each place takes the first file of its kind. Where a place has none
// of its kind, or files of a kind are left over, the order stays as it was given.
std::vector<std::string> in_order(const Command& command, std::vector<std::string> files) {
  std::vector<std::string> slots;
  for (const std::string& slot : base::split(command.operands, ' '))
    slots.push_back(slot.front() == '[' ? slot.substr(1, slot.size() - 2) : slot);
  if (std::find(slots.begin(), slots.end(), "OUT") != slots.end()) return files;
  std::vector<base::FileKind> kinds;
  for (const std::string& file : files) kinds.push_back(base::nature_of_file(file).kind);
  std::vector<std::string> ordered;
  for (const std::string& slot : slots) {
    if (ordered.size() == files.size()) break;
    auto taken = std::find(kinds.begin(), kinds.end(), kind_of_slot(slot));
    if (taken == kinds.end()) taken = std::find(kinds.begin(), kinds.end(), base::FileKind::kUnknown);
    if (taken == kinds.end() || kind_of_slot(slot) == base::FileKind::kUnknown) return files;
    ordered.push_back(files[static_cast<std::size_t>(taken - kinds.begin())]);
    *taken = base::FileKind::kOther;
  }
  return ordered;
}

}  // namespace

int print_error(const std::string& message, int code) {
  constexpr std::size_t kMost = 2000;  // letters of a line
  std::fflush(stdout);
  for (const std::string& line : base::split(message, '\n')) fmt::print(stderr, "darknet: {}\n", base::quoted(line, kMost));
  return code;
}

int run_command(const Command& command, const Arguments& arguments) {
  if (const int code = check_options(command, arguments); code != 0) return code;
  const std::size_t count = arguments.operand_count();
  if (count < command.operands_min)
    return print_error(fmt::format("`darknet {}` needs more arguments; {}", command.words, usage(command)), kExitUsage);
  if (count > command.operands_max)
    return print_error(fmt::format("'{}' is one argument too many; {}", arguments.operand(command.operands_max), usage(command)),
                       kExitUsage);
  const auto first = arguments.positional.begin() + static_cast<std::ptrdiff_t>(arguments.command_words);
  Arguments ordered = arguments;
  ordered.positional.resize(arguments.command_words);
  for (std::string& file : in_order(command, {first, arguments.positional.end()})) ordered.positional.push_back(std::move(file));
  const base::Result<int> code = command.run(ordered);
  return code ? *code : print_error(code.error().message, kExitFailure);
}

}  // namespace tessera::darknet
