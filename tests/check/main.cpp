#include "tests/support/run.hpp"

int main(int argc, char** argv) { return tessera::testing::run(argc, argv); }
