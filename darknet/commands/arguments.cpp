#include "darknet/commands/arguments.hpp"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <iterator>

#include "base/text.hpp"

namespace tessera::darknet {
namespace {

// Options are known by their letters and digits alone.
std::string bare(std::string_view name) {
  std::string letters;
  std::copy_if(name.begin(), name.end(), std::back_inserter(letters), [](unsigned char c) { return std::isalnum(c); });
  return letters;
}

const OptionSpec* find_option(std::span<const OptionSpec> options, std::string_view name) {
  const auto found = std::find_if(options.begin(), options.end(), [&](const OptionSpec& o) { return bare(name) == bare(o.name); });
  return found == options.end() ? nullptr : &*found;
}

const char* kind_name(OptionKind kind) {
  switch (kind) {
    case OptionKind::kInteger:
      return "a whole number";
    case OptionKind::kReal:
      return "a number";
    default:
      return "a value";
  }
}

bool has_kind(OptionKind kind, const std::string& value) {
  if (kind == OptionKind::kInteger) return base::to_integer(value).has_value();
  if (kind == OptionKind::kReal) return base::to_real(value).has_value();
  return true;
}

// Words in the one spelling CLI11 knows. Errors for unknown options, so that CLI11 never meets one.
base::Result<std::vector<std::string>> normalize(std::span<const std::string> words, std::span<const OptionSpec> options) {
  std::vector<std::string> normal;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    std::string name = option_name(word);
    if (name.empty()) {
      normal.push_back(word);
      continue;
    }
    std::string value;
    const std::size_t equals = name.find('=');
    const bool attached = equals != std::string::npos;
    if (attached) {
      value = word.substr(word.find('=') + 1);
      name.resize(equals);
    }
    const OptionSpec* option = find_option(options, name);
    if (!option) {
      std::vector<std::string> names;
      for (const OptionSpec& known : options) names.emplace_back(known.name);
      const std::string near = base::nearest(name, names);
      return base::error(base::ErrorCode::kInvalidArgument, "unknown option {}{}", base::quoted(word),
                         near.empty() ? "; `darknet help` lists all options" : fmt::format("; did you mean -{}?", near));
    }
    name = option->name;
    if (option->kind == OptionKind::kFlag) {
      if (attached) return base::error(base::ErrorCode::kInvalidArgument, "option -{} takes no value, not '{}'", name, value);
      normal.push_back("--" + name);
      continue;
    }
    if (!attached) {
      if (i + 1 == words.size() || !option_name(words[i + 1]).empty())
        return base::error(base::ErrorCode::kInvalidArgument, "option -{} needs {} after it", name, kind_name(option->kind));
      value = words[++i];
    }
    if (!has_kind(option->kind, value))
      return base::error(base::ErrorCode::kInvalidArgument, "option -{} needs {}, not '{}'", name, kind_name(option->kind), value);
    normal.push_back(fmt::format("--{}={}", name, value));
  }
  return normal;
}

}  // namespace

std::string option_name(std::string_view word) {
  if (word.size() < 2 || word[0] != '-' || base::to_real(word)) return "";
  word.remove_prefix(word[1] == '-' ? 2 : 1);
  std::string name(word);
  const std::size_t end = std::min(name.find('='), name.size());
  std::transform(name.begin(), name.begin() + static_cast<std::ptrdiff_t>(end), name.begin(),
                 [](unsigned char c) { return c == '-' ? '_' : static_cast<char>(std::tolower(c)); });
  return name;
}

std::string Arguments::text(std::string_view name, const std::string& fallback) const {
  const auto found = values_.find(name);
  return found == values_.end() ? fallback : found->second;
}

long Arguments::integer(std::string_view name, long fallback) const {
  const auto found = values_.find(name);
  return found == values_.end() ? fallback : std::strtol(found->second.c_str(), nullptr, 10);
}

double Arguments::real(std::string_view name, double fallback) const {
  const auto found = values_.find(name);
  return found == values_.end() ? fallback : std::strtod(found->second.c_str(), nullptr);
}

std::string Arguments::operand(std::size_t index) const {
  return command_words + index < positional.size() ? positional[command_words + index] : "";
}

base::Result<Arguments> parse_arguments(std::string program, std::span<const std::string> words, std::span<const OptionSpec> options) {
  TESSERA_ASSIGN(std::vector<std::string> normal, normalize(words, options));

  CLI::App app;
  app.set_help_flag();  // `-h` is a height in Darknet; help is a command
  std::vector<std::string> positional;
  app.add_option("operands", positional);
  std::map<std::string, std::string, std::less<>> values;
  for (const OptionSpec& spec : options) {
    const std::string flag = std::string("--") + spec.name;
    if (spec.kind == OptionKind::kFlag) {
      app.add_flag_callback(flag, [&values, name = std::string(spec.name)] { values[name] = "1"; });
      continue;
    }
    CLI::Option* option = app.add_option_function<std::string>(
        flag, [&values, name = std::string(spec.name)](const std::string& value) { values[name] = value; });
    option->take_last();
  }
  std::reverse(normal.begin(), normal.end());  // CLI11 takes a vector back to front
  try {
    app.parse(normal);
  } catch (const CLI::ParseError& failure) {
    std::string message = failure.what();
    std::replace(message.begin(), message.end(), '\n', ' ');
    return base::error(base::ErrorCode::kInvalidArgument, "{}", message);
  }

  Arguments arguments;
  arguments.program = std::move(program);
  arguments.positional = std::move(positional);
  for (auto& [name, value] : values) arguments.set(name, value);
  return arguments;
}

}  // namespace tessera::darknet
