#include "darknet/commands/run_command.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

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

}  // namespace

int print_error(const std::string& message, int code) {
  std::fflush(stdout);
  fmt::print(stderr, "darknet: {}\n", message);
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
  const base::Result<int> code = command.run(arguments);
  return code ? *code : print_error(code.error().message, kExitFailure);
}

}  // namespace tessera::darknet
