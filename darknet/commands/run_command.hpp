// What our programs do with a command once it is found: its arguments are checked, it runs, and an error becomes one line
// and an exit code.
#pragma once

#include <string>

#include "darknet/commands/commands.hpp"

namespace tessera::darknet {

// "darknet: message" on stderr, after what is on its way to stdout. Returns `code`.
int print_error(const std::string& message, int code);

// Returns the exit code.
int run_command(const Command& command, const Arguments& arguments);

}  // namespace tessera::darknet
