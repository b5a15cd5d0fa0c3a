#include "plugins/layers/kinds.hpp"
#include "tests/support/run.hpp"

int main(int argc, char** argv) {
  tessera::layers::join_layer_kinds();
  return tessera::testing::run(argc, argv);
}
