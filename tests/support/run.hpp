// Runs the test cases of a program.
#pragma once

namespace tessera::testing {

// What main() returns.
int run(int argc, char** argv);

}  // namespace tessera::testing
