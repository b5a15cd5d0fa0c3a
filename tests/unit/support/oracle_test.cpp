// The oracle is what other tests are measured with, so it is measured first, by hand-worked numbers.
#include "tests/support/oracle.hpp"

#include <doctest/doctest.h>

#include <algorithm>

using tessera::testing::parse_stock_network;

TEST_CASE("the oracle's functions are not the program's") {
  CHECK(reinterpret_cast<void*>(&stock_parse_network_cfg) != reinterpret_cast<void*>(&parse_network_cfg));
  CHECK(reinterpret_cast<void*>(&stock_save_weights_upto) != reinterpret_cast<void*>(&save_weights_upto));
}

TEST_CASE("the oracle computes a convolution forward and backward") {
  // One 2x2 kernel over a 3x3 image: outputs are sums of four neighbours, weighted 1, 2, 3, 4.
  auto net = parse_stock_network(
      "[net]\nbatch=1\nheight=3\nwidth=3\nchannels=1\nlearning_rate=0.5\nmomentum=0\ndecay=0\npolicy=constant\n"
      "[convolutional]\nfilters=1\nsize=2\nstride=1\npad=0\nactivation=linear\n");
  REQUIRE(net->n == 1);
  layer& conv = net->layers[0];
  REQUIRE(conv.outputs == 4);
  std::copy_n(std::begin({1.f, 2.f, 3.f, 4.f}), 4, conv.weights);
  conv.biases[0] = 0.5f;
  for (int cell = 0; cell < 9; ++cell) net->input[cell] = static_cast<float>(cell);

  stock_forward_network(net.get());
  const float expected[] = {27.5f, 37.5f, 57.5f, 67.5f};
  for (int cell = 0; cell < 4; ++cell) CHECK(conv.output[cell] == expected[cell]);

  std::fill_n(conv.delta, 4, 1.0f);
  stock_backward_network(net.get());
  const float gradient[] = {0 + 1 + 3 + 4, 1 + 2 + 4 + 5, 3 + 4 + 6 + 7, 4 + 5 + 7 + 8};
  for (int weight = 0; weight < 4; ++weight) CHECK(conv.weight_updates[weight] == gradient[weight]);
  CHECK(conv.bias_updates[0] == 4.0f);

  stock_update_network(net.get());
  CHECK(conv.weights[0] == 1.0f + 0.5f * gradient[0]);
  CHECK(conv.biases[0] == 0.5f + 0.5f * 4.0f);
}
