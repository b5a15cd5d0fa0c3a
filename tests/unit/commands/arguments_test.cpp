#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "base/text.hpp"
#include "darknet/commands/arguments.hpp"
#include "darknet/commands/commands.hpp"

using namespace tessera;
using namespace tessera::darknet;

namespace {

tessera::base::Result<Arguments> parse(const std::vector<std::string>& words) { return parse_arguments("darknet", words, all_options()); }

}  // namespace

TEST_CASE("every spelling of an option is the same option") {
  for (const char* word : {"-dont_show", "--dont-show", "--dont_show", "-Dont-Show"}) {
    CAPTURE(std::string(word));
    CHECK(option_name(word) == "dont_show");
    const auto arguments = parse({"detector", word, "train"});
    REQUIRE(arguments);
    CHECK(arguments->has("dont_show"));
    CHECK(arguments->positional == std::vector<std::string>{"detector", "train"});
  }
  for (const char* word : {"train", "-", "-5", "-0.5", "-1e3", ""}) {
    CAPTURE(std::string(word));
    CHECK(option_name(word).empty());
  }
}

TEST_CASE("values are taken from the next word or after '=', the last one counts") {
  auto arguments =
      parse({"detector", "-map", "train", "-gpus", "0,1", "x.data", "-thresh", ".3", "-thresh=0.4", "-points", "101", "-c", "-1"});
  REQUIRE(arguments);
  arguments->command_words = 2;
  CHECK(arguments->operand(0) == "x.data");
  CHECK(arguments->operand(1).empty());
  CHECK(arguments->operand_count() == 1);
  CHECK(arguments->text("gpus") == "0,1");
  CHECK(arguments->real("thresh", 0) == doctest::Approx(0.4));
  CHECK(arguments->integer("points", 0) == 101);
  CHECK(arguments->integer("c", 0) == -1);
  CHECK(arguments->integer("seed", 42) == 42);
  CHECK_FALSE(arguments->has("clear"));
}

TEST_CASE("mistakes are named, with a suggestion where one is near") {
  const auto message = [](const std::vector<std::string>& words) {
    const auto arguments = parse(words);
    return arguments ? std::string("accepted") : arguments.error().message;
  };
  CHECK(message({"-dont_shwo"}) == "unknown option -dont_shwo; did you mean -dont_show?");
  CHECK(message({"-qqqqqqqq"}).find("`darknet help`") != std::string::npos);
  CHECK(message({"-thresh"}) == "option -thresh needs a number after it");
  CHECK(message({"-seed", "-map"}) == "option -seed needs a whole number after it");
  CHECK(message({"-map=3"}) == "option -map takes no value, not '3'");
  CHECK(message({"-seed", "many"}) == "option -seed needs a whole number, not 'many'");
  CHECK(message({"-thresh", "low"}) == "option -thresh needs a number, not 'low'");
  CHECK(message({"-seed=1.5"}) == "option -seed needs a whole number, not '1.5'");
}

TEST_CASE("the nearest word is found by edits, exchanged letters counting as one") {
  const std::vector<std::string> words = {"train", "test", "valid", "map"};
  CHECK(base::nearest("trian", words) == "train");
  CHECK(base::nearest("vaild", words) == "valid");
  CHECK(base::nearest("tset", words) == "test");
  CHECK(base::nearest("completely", words).empty());
}

TEST_CASE("every option a command names exists, and every command has a usage") {
  for (const Command& command : all_commands()) {
    CAPTURE(command.words);
    CHECK(static_cast<bool>(command.run));
    CHECK(command.operands_min <= command.operands_max);
    for (const char* name : command.options) {
      CAPTURE(std::string(name));
      bool known = false;
      for (const OptionSpec& option : all_options()) known |= std::string(option.name) == name;
      CHECK(known);
    }
  }
}
