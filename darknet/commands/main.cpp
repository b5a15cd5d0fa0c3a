// darknet: finds the command and runs it.
#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "base/heap.hpp"
#include "base/output.hpp"
#include "base/text.hpp"
#include "darknet/commands/arguments.hpp"
#include "darknet/commands/blas_start.hpp"
#include "darknet/commands/commands.hpp"
#include "darknet/commands/run_command.hpp"
#include "darknet/upstream/upstream_commands.hpp"
#include "darknet/upstream/upstream_errors.hpp"
#include "plugins/layers/kinds.hpp"

namespace {

using namespace tessera;
using namespace tessera::darknet;
using tessera::base::Result;

int print_help() {
  fmt::print("darknet COMMAND ... [OPTIONS anywhere; -an_option = --an-option = --an_option]\n\n");
  for (const Command& command : all_commands()) fmt::print("  darknet {} {}\n      {}\n", command.words, command.operands, command.summary);
  fmt::print("\noptions\n");
  for (const OptionSpec& option : all_options())
    if (*option.help) fmt::print("  {:<18} {}\n", fmt::format("-{}", option.name), option.help);
  std::string accepted, others;
  for (const OptionSpec& option : all_options())
    if (is_accepted_without_effect(option.name)) accepted += fmt::format(" -{}", option.name);
  for (const UpstreamCommand& command : upstream_commands()) others += " " + command.word;
  fmt::print("\naccepted without effect:{}\nrun as upstream has them:{}\n", accepted, others);
  return 0;
}

// How many of the words, in order, name a command of the table: 2, 1 or 0 words, and which.
const Command* find_command(const std::vector<std::string>& words, std::size_t* count) {
  for (std::size_t n = std::min<std::size_t>(2, words.size()); n > 0; --n) {
    std::string name = words[0];
    if (n == 2) name += " " + words[1];
    for (const Command& command : all_commands())
      if (name == command.words) {
        *count = n;
        return &command;
      }
  }
  return nullptr;
}

// What may follow `first` in a command of two words: "train, test, ..."; "" when there is none.
std::string subcommands(const std::string& first) {
  std::string names;
  for (const Command& command : all_commands()) {
    const std::string words = command.words;
    if (words.rfind(first + " ", 0) == 0) names += (names.empty() ? "" : ", ") + words.substr(first.size() + 1);
  }
  return names;
}

int unknown_command(const std::vector<std::string>& words) {
  const std::string& first = words[0];
  const std::string followers = subcommands(first);
  if (words.size() == 1 && !followers.empty())
    return print_error(fmt::format("`darknet {}` needs one of {} after it", first, followers), kExitUsage);
  std::vector<std::string> known, full;
  for (const Command& command : all_commands()) {
    full.emplace_back(command.words);
    known.push_back(full.back().substr(0, full.back().find(' ')));
  }
  for (const UpstreamCommand& command : upstream_commands()) known.push_back(command.word);
  const std::string typed = words.size() > 1 ? first + " " + words[1] : first;
  std::string near = base::nearest(typed, full);
  if (near.empty() && followers.empty()) near = base::nearest(first, known);
  std::string advice = "`darknet help` lists them";
  if (!near.empty())
    advice = fmt::format("did you mean `darknet {}`?", near);
  else if (!followers.empty())
    advice = "there are " + followers;
  return print_error(fmt::format("there is no command `{}`; {}", followers.empty() ? first : typed, advice), kExitUsage);
}

bool is_upstream(const std::vector<std::string>& words, int* code) {
  *code = 0;
  if (words.empty()) return false;
  if (words.size() > 1 && is_upstream_subcommand(words[0], words[1])) return true;
  for (const UpstreamCommand& command : upstream_commands()) {
    if (command.word != words[0]) continue;
    if (words.size() - 1 < command.words_min)
      *code = print_error(fmt::format("`darknet {}` needs at least {} arguments", command.word, command.words_min), kExitUsage);
    return true;
  }
  return false;
}

int dispatch(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  // Upstream's commands have options of their own, so they are recognised before ours are parsed.
  int code = 0;
  if (is_upstream(words, &code)) return code != 0 ? code : run_upstream_main(argc, argv);
  if (words.empty() || words[0] == "help" || words[0] == "--help" || words[0] == "-help")
    return print_help(), words.empty() ? kExitUsage : 0;

  Result<Arguments> arguments = parse_arguments(argv[0], words, all_options());
  if (!arguments) return print_error(arguments.error().message, kExitUsage);
  if (arguments->positional.empty()) return print_error("no command is given; `darknet help` lists them", kExitUsage);
  const Command* command = find_command(arguments->positional, &arguments->command_words);
  return command ? run_command(*command, *arguments) : unknown_command(arguments->positional);
}

}  // namespace

int main(int argc, char** argv) {
  tessera::darknet::start_with_best_blas(argv);
  tessera::base::keep_output_from_failing();
  tessera::base::return_freed_memory();
  tessera::layers::join_layer_kinds();
  try {
    return dispatch(argc, argv);
  } catch (const UpstreamError& failure) {  // upstream's own exit, turned into an exception
    return print_error(failure.what(), kExitFailure);
  } catch (const std::bad_alloc&) {
    return print_error("there is not enough memory; lower batch=, raise subdivisions=, lower width= and height=", kExitFailure);
  } catch (const std::exception& failure) {
    return print_error(fmt::format("internal error: {}", failure.what()), kExitFailure);
  }
}
