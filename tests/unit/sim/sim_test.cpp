// Forecasts: hand-worked plans, and properties of forecasts of random ones.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "base/check.hpp"
#include "program/compile.hpp"
#include "program/work.hpp"
#include "sim/network.hpp"
#include "sim/profiles.hpp"
#include "sim/simulator.hpp"
#include "sim/update.hpp"
#include "tests/support/random_graph.hpp"
#include "tests/support/seed.hpp"

using namespace tessera;
using doctest::Approx;
using graph::Graph;
using program::Mode;
using sim::DeviceProfile;
using sim::Forecast;
using testing::Rng;

namespace {

constexpr double kEndless = std::numeric_limits<double>::infinity();
constexpr int kRandomCases = 200;

struct Convolution {
  int filters, kernel, pad;
  bool batch_normalize = false;
};

// An image whose delta nobody wants, then convolutions in a row, the last one delivered.
Graph chain(geometry::Shape image, const std::vector<Convolution>& convolutions) {
  Graph graph;
  graph.layers.resize(1 + convolutions.size());
  graph.layers[0].out = image;
  graph.layers[0].backward = false;
  for (std::size_t i = 0; i < convolutions.size(); ++i) {
    const Convolution& c = convolutions[i];
    const geometry::Shape in = graph.layers[i].out;
    graph::Layer& layer = graph.layers[i + 1];
    layer.kind = graph::LayerKind::kConvolutional;
    layer.source = static_cast<int>(i);
    layer.inputs = {static_cast<int>(i)};
    layer.kernel = c.kernel, layer.pad = c.pad;
    layer.out = {c.filters, in.y + 2 * c.pad - c.kernel + 1, in.x + 2 * c.pad - c.kernel + 1};
    layer.batch_normalize = c.batch_normalize;
  }
  graph.layers.back().delivered = true;
  const auto valid = graph::validate(graph);
  REQUIRE_MESSAGE(valid, valid.error().message);
  return graph;
}

plan::Plan make(const Graph& graph, int batch, const plan::Layout& layout) {
  const auto plan = plan::make_plan(graph, batch, layout);
  REQUIRE_MESSAGE(plan, plan.error().message);
  return *plan;
}

// As many equal bands of rows as there are participants; the coordinator is one of them, or only watches.
plan::Plan bands(const Graph& graph, int participants, bool idle_coordinator = false) {
  plan::Layout layout;
  layout.participant_count = participants;
  for (int p = idle_coordinator ? 1 : 0; p < participants; ++p) layout.participants.push_back(p);
  layout.grid.rows.assign(layout.participants.size(), 1.0);
  return make(graph, 1, layout);
}

Forecast forecast(const Graph& graph, const plan::Plan& plan, Mode mode, const std::vector<DeviceProfile>& profiles) {
  return sim::simulate(graph, program::compile(graph, plan, mode), profiles);
}

struct Case {
  Graph graph;
  plan::Plan plan;
  std::vector<DeviceProfile> profiles;
};

Case random_case(Rng& rng) {
  Case c{testing::random_graph(rng, 8), {}, {}};
  const int batch = rng.between(1, 3);
  c.plan =
      rng.chance(0.3) ? testing::random_free_plan(rng, c.graph, batch) : make(c.graph, batch, testing::random_layout(rng, c.graph, batch));
  for (int p = 0; p < c.plan.participants; ++p)
    c.profiles.push_back({1e6 * (0.1 + rng.uniform()), 1e6 * (0.1 + rng.uniform()), 1e5 * (0.1 + rng.uniform()), 1e-3 * rng.uniform(), 0});
  return c;
}

std::uint64_t sent_bytes(const Forecast& forecast) {
  std::uint64_t sum = 0;
  for (const auto& device : forecast.devices) sum += device.sent_bytes;
  return sum;
}

}  // namespace

TEST_CASE("a device alone takes its multiply-adds over its speed") {
  // 4 x 4 outputs of 9 multiply-adds each, 2 filters.
  const Graph graph = chain({1, 6, 6}, {{2, 3, 0}});
  const auto plan = bands(graph, 1);
  const std::vector<DeviceProfile> profiles = {{1000, kEndless, 1, 1, 0}};
  const Forecast test = forecast(graph, plan, Mode::kTest, profiles);
  CHECK(test.forward_seconds == Approx(0.288));
  CHECK(test.backward_seconds == 0);
  CHECK(test.reduce_seconds == 0);
  CHECK(test.devices[0].multiply_adds == 288);
  CHECK(test.devices[0].sent_messages == 0);
  CHECK(test.devices[0].sent_bytes == 0);
  CHECK(test.devices[0].parameter_bytes == (18 + 2) * sizeof(float));

  // Training adds the gradient of the weights, which costs as much; nobody wants the delta of the image.
  const Forecast train = forecast(graph, plan, Mode::kTrain, profiles);
  CHECK(train.forward_seconds == Approx(0.288));
  CHECK(train.backward_seconds == Approx(0.288));
  CHECK(train.reduce_seconds == 0);
  CHECK(train.seconds(3) == Approx(6 * 0.288));
  CHECK(train.devices[0].multiply_adds == 576);
  CHECK(train.devices[0].parameter_bytes == 2 * (18 + 2) * sizeof(float));  // weights and momentum

  // 6 floats of memory traffic for each of the 20 parameters.
  const Forecast update = forecast(graph, plan, Mode::kTrain, {{1000, 100, 1, 1, 0}});
  CHECK(update.reduce_seconds == Approx(20 * 6 * sizeof(float) / 100.0));
}

TEST_CASE("two devices exchange one row of halo each way, and the result comes back") {
  const Graph graph = chain({1, 4, 4}, {{1, 3, 1}, {1, 3, 1}});
  const auto plan = bands(graph, 2);
  constexpr double kBytesPerSecond = 100, kMessage = 0.25;
  const std::vector<DeviceProfile> profiles(2, {kEndless, kEndless, kBytesPerSecond, kMessage, 0});
  const Forecast f = forecast(graph, plan, Mode::kTest, profiles);
  constexpr std::uint64_t kRow = 4 * sizeof(float);
  // The coordinator sends three rows of the image and row 1 of layer 0.
  CHECK(f.devices[0].sent_messages == 2);
  CHECK(f.devices[0].sent_bytes == 4 * kRow);
  // The worker sends row 2 of layer 0 and its two rows of the delivered layer 1.
  CHECK(f.devices[1].sent_messages == 2);
  CHECK(f.devices[1].sent_bytes == 3 * kRow);
  CHECK(f.devices[0].received_bytes == 3 * kRow);
  CHECK(f.devices[1].received_bytes == 4 * kRow);
  // Four rows one way, a message's delay, two rows the other way, another delay.
  CHECK(f.forward_seconds == Approx(6 * kRow / kBytesPerSecond + 2 * kMessage));
  CHECK(f.devices[0].busy_seconds == 0);
  CHECK(f.devices[0].waiting_seconds == Approx(f.forward_seconds));

  // One fused group computes the halo twice instead of fetching it.
  plan::Plan fused = plan;
  fused.forward_starts = {1};
  const Forecast g = forecast(graph, fused, Mode::kTest, profiles);
  CHECK(g.devices[0].sent_messages == 1);
  CHECK(g.devices[0].sent_bytes == 4 * kRow);
  CHECK(g.devices[1].sent_messages == 1);
  CHECK(g.devices[1].sent_bytes == 2 * kRow);
  CHECK(g.devices[0].multiply_adds > f.devices[0].multiply_adds);
}

TEST_CASE("messages leave in turn and share the link of whoever receives them") {
  const std::vector<DeviceProfile> profiles = {{1, 1, 10, 1, 0}, {1, 1, 10, 1, 0}, {1, 1, 20, 2, 0}};
  {
    sim::Network network(profiles);
    const auto first = network.send(0, 1, 100, 5), second = network.send(0, 2, 50, 6);
    CHECK(first.start == 5);
    CHECK(second.start == 15);  // behind the first
    CHECK(network.arrival(first) == 16);
    CHECK(network.arrival(second) == 22);  // 5 s at the sender's speed, and the longer delay
  }
  sim::Network network(profiles);
  const auto a = network.send(0, 1, 100, 0), b = network.send(2, 1, 40, 0), c = network.send(2, 1, 10, 30);
  CHECK(network.arrival(a) == 11);
  CHECK(network.arrival(b) == 16);  // 4 s of the link, free after 10 s, and 2 s of delay
  CHECK(network.arrival(c) == 33);
}

TEST_CASE("a plan fits when every device has the bytes its arena and parameters take") {
  const Graph graph = chain({1, 8, 8}, {{4, 3, 1}, {2, 3, 1}});
  const auto plan = bands(graph, 2);
  std::vector<DeviceProfile> profiles(2);
  const Forecast f = forecast(graph, plan, Mode::kTrain, profiles);
  CHECK(f.fits);
  for (const std::size_t p : {0u, 1u}) {
    CAPTURE(p);
    const auto needed = static_cast<double>(f.devices[p].arena_bytes + f.devices[p].parameter_bytes);
    CHECK(f.devices[p].arena_bytes > 0);
    profiles[p].memory_bytes = needed;
    CHECK(forecast(graph, plan, Mode::kTrain, profiles).fits);
    profiles[p].memory_bytes = needed - 1;
    CHECK_FALSE(forecast(graph, plan, Mode::kTrain, profiles).fits);
    profiles[p].memory_bytes = 0;
  }
}

TEST_CASE("random plans come to an end, and what is sent is received") {
  CAPTURE(testing::seed());
  Rng rng(testing::seed());
  std::uint64_t bytes = 0;
  for (int i = 0; i < kRandomCases; ++i) {
    CAPTURE(i);
    const Case c = random_case(rng);
    CAPTURE(testing::describe(c.graph));
    CAPTURE(testing::describe(c.plan));
    for (const Mode mode : {Mode::kTrain, Mode::kTest}) {
      const auto set = program::compile(c.graph, c.plan, mode);
      Forecast f;
      REQUIRE_NOTHROW(f = sim::simulate(c.graph, set, c.profiles));
      const double seconds = f.seconds(1);
      REQUIRE(std::isfinite(seconds));
      REQUIRE(f.forward_seconds > 0);
      REQUIRE((f.backward_seconds > 0) <= (mode == Mode::kTrain));
      std::uint64_t received = 0;
      for (std::size_t p = 0; p < f.devices.size(); ++p) {
        const auto& device = f.devices[p];
        received += device.received_bytes;
        REQUIRE(device.waiting_seconds >= -1e-9 * seconds);
        REQUIRE(device.busy_seconds + device.waiting_seconds == Approx(seconds));
        REQUIRE(device.arena_bytes == set.programs[p].arena_bytes);
        REQUIRE(seconds * (1 + 1e-9) >= static_cast<double>(device.multiply_adds) / c.profiles[p].multiply_adds_per_second);
      }
      REQUIRE(sent_bytes(f) == received);
      bytes += received;
    }
  }
  CHECK(bytes > 0);
}

TEST_CASE("a faster device or link never makes a forecast longer") {
  CAPTURE(testing::seed());
  Rng rng(testing::seed() + 1);
  int shorter = 0;
  for (int i = 0; i < kRandomCases; ++i) {
    CAPTURE(i);
    const Case c = random_case(rng);
    const auto set = program::compile(c.graph, c.plan, Mode::kTrain);
    const double before = sim::simulate(c.graph, set, c.profiles).seconds(1);
    for (const auto quality : {&DeviceProfile::multiply_adds_per_second, &DeviceProfile::memory_bytes_per_second,
                               &DeviceProfile::link_bytes_per_second, &DeviceProfile::message_seconds}) {
      auto better = c.profiles;
      const double factor = 1 + 3 * rng.uniform();
      const bool delay = quality == &DeviceProfile::message_seconds;
      auto& one = better[rng.below(better.size())];
      one.*quality *= delay ? 1 / factor : factor;
      const double one_better = sim::simulate(c.graph, set, better).seconds(1);
      REQUIRE_MESSAGE(one_better <= before * (1 + 1e-9), testing::describe(c.graph), testing::describe(c.plan));
      for (std::size_t p = 0; p < better.size(); ++p) better[p].*quality = c.profiles[p].*quality * (delay ? 1 / factor : factor);
      const double all_better = sim::simulate(c.graph, set, better).seconds(1);
      REQUIRE_MESSAGE(all_better <= before * (1 + 1e-9), testing::describe(c.graph), testing::describe(c.plan));
      shorter += all_better < before * 0.999;
    }
  }
  CHECK(shorter > kRandomCases);
}

// Sent by each participant in a backward pass and an update because gradients are summed.
std::vector<std::uint64_t> gradient_bytes(const Graph& graph, const plan::Plan& plan) {
  const auto set = program::compile(graph, plan, Mode::kTrain);
  std::vector<std::uint64_t> bytes;
  for (const auto& program : set.programs) {
    bytes.push_back(0);
    for (const auto& step : program.backward)
      if (program::sums_gradients(step.op) && program::is_send(step.op)) bytes.back() += program::message_bytes(graph, program, step);
  }
  std::vector<sim::DeviceForecast> devices(bytes.size());
  CHECK(sim::update_weights(graph, *set.sharding, std::vector<DeviceProfile>(bytes.size(), DeviceProfile{1, 1000, 1000, 0.1, 0}), devices) >
        0);
  for (std::size_t p = 0; p < bytes.size(); ++p) bytes[p] += devices[p].sent_bytes;
  return bytes;
}

TEST_CASE("each of N participants that contribute sends 2(N-1)/N of the gradient, a coordinator without boxes its shard of the result") {
  const Graph graph = chain({3, 16, 16}, {{384, 1, 0}});
  constexpr std::uint64_t kGradient = (384 * 3 + 384) * sizeof(float);  // weights and biases
  for (const int n : {2, 3, 4, 8}) {
    CAPTURE(n);
    const auto count = static_cast<std::uint64_t>(n);
    const auto all = gradient_bytes(graph, bands(graph, n)), workers = gradient_bytes(graph, bands(graph, n, true));
    for (std::size_t p = 1; p < count; ++p) {
      CHECK(all[p] == 2 * (count - 1) * kGradient / count);
      CHECK(workers[p] == all[p]);
    }
    CHECK(all[0] == 2 * (count - 1) * kGradient / count);
    CHECK(workers[0] == (count - 1) * kGradient / count);
  }
}

TEST_CASE("cut along channels, gradients go to the coordinator only, and of others' filters workers take the input channels they read") {
  const Graph graph = chain({64, 8, 8}, {{64, 3, 1, true}, {64, 3, 1, true}, {64, 3, 1}});
  constexpr std::uint64_t kWeights = 64 * 64 * 9 * sizeof(float), kBiases = 64 * sizeof(float);
  plan::Layout layout;
  layout.participants = {1, 2, 3, 4};
  layout.participant_count = 5;
  layout.grid.rows.assign(4, 1.0);
  layout.channel_nodes = {1, 4};
  layout.channel_shares.assign(4, 1.0);
  const auto bytes = gradient_bytes(graph, make(graph, 1, layout));
  CHECK(bytes[0] == 0);
  // Its filters of three layers to the coordinator; of the upper two, a quarter of the input channels to each other worker.
  for (std::size_t p = 1; p < 5; ++p) CHECK(bytes[p] == (3 * kWeights + kBiases) / 4 + 2 * 3 * (kWeights / 4) / 4);
  const auto set = program::compile(graph, make(graph, 1, layout), Mode::kTrain);
  CHECK(set.sharding->partial());
  CHECK_FALSE(program::compile(graph, bands(graph, 4), Mode::kTrain).sharding->partial());
  // A quarter of the filters' gradient, of its momentum and of its sum; every weight.
  const auto own = 3 * kWeights / 4 + kBiases / 4;
  CHECK(sim::parameter_bytes(graph, set, 1) ==
        3 * kWeights + kBiases + 2 * own + 2 * kWeights / 4 + kWeights + kBiases + 2 * 4 * 2 * kBiases);
}

TEST_CASE("batch norm's own gradients are not summed; momentum and sums are divided") {
  const Graph graph = chain({1024, 4, 4}, {{1024, 3, 1, true}});
  constexpr std::uint64_t kWeights = 1024 * 1024 * 9, kNorm = 2 * 1024, kStatistics = 2 * 1024;
  for (const std::uint64_t bytes : gradient_bytes(graph, bands(graph, 4))) CHECK(bytes == 6 * kWeights * sizeof(float) / 4);
  const auto floats = [&](Mode mode, int participant, int participants, bool single_pass) {
    auto plan = bands(graph, participants);
    plan.single_pass = single_pass;
    return sim::parameter_bytes(graph, program::compile(graph, plan, mode), participant) / sizeof(float);
  };
  CHECK(floats(Mode::kTest, 1, 4, false) == kWeights + kNorm + kStatistics);
  CHECK(floats(Mode::kTrain, 0, 1, false) == 2 * kWeights + 3 * kNorm + kStatistics);
  CHECK(floats(Mode::kTrain, 0, 4, false) == 3 * kWeights + 3 * kNorm + kStatistics);
  CHECK(floats(Mode::kTrain, 1, 4, false) == kWeights + 2 * kWeights / 4 + kWeights + 3 * kNorm + kStatistics);

  // With one pass to an update, gradients are among the tensors.
  CHECK(floats(Mode::kTrain, 1, 4, true) == kWeights + 2 * kWeights / 4 + 3 * kNorm + kStatistics);
}

TEST_CASE("programs in which participants wait for each other fail a check that names both steps") {
  const Graph graph = chain({1, 4, 4}, {{1, 3, 1}});
  const auto plan = bands(graph, 2);
  auto set = program::compile(graph, plan, Mode::kTest);
  program::Step receive;
  receive.op = program::Op::kReceiveMoments;
  receive.node = 1;
  for (std::size_t p = 0; p < 2; ++p) {
    receive.peer = 1 - static_cast<int>(p);
    receive.transfer = 100 + static_cast<std::uint32_t>(p);
    set.programs[p].forward.insert(set.programs[p].forward.begin(), receive);
  }
  std::string message;
  try {
    sim::simulate(graph, set, std::vector<DeviceProfile>(2));
  } catch (const base::CheckFailure& failure) {
    message = failure.what();
  }
  CHECK(message.find("participants wait for each other") != std::string::npos);
  CHECK(message.find("participant 0 at step 0 (receive_moments of node 1 from 1, transfer 100)") != std::string::npos);
  CHECK(message.find("participant 1 at step 0 (receive_moments of node 1 from 0, transfer 101)") != std::string::npos);
}

TEST_CASE("profiles have names, and devices of one machine share it") {
  REQUIRE(sim::named_profiles().size() >= 4);
  for (const auto& profile : sim::named_profiles()) {
    const auto found = sim::named_profile(profile.name);
    REQUIRE_MESSAGE(found, found.error().message);
    CHECK(found->multiply_adds_per_second == profile.device.multiply_adds_per_second);
    CHECK(found->link_bytes_per_second == profile.device.link_bytes_per_second);
    CHECK(found->memory_bytes > 0);
  }
  CHECK(sim::named_profile("pi4")->link_bytes_per_second == Approx(900e6 / 8));
  const auto unknown = sim::named_profile("pi9");
  REQUIRE_FALSE(unknown);
  for (const char* part : {"'pi9'", "pi3", "pi3+", "pi4", "pi5", "local"})
    CHECK_MESSAGE(unknown.error().message.find(part) != std::string::npos, unknown.error().message);

  const auto whole = sim::same_machine_profile(8, 1), quarter = sim::same_machine_profile(8, 4);
  CHECK(quarter.multiply_adds_per_second == Approx(whole.multiply_adds_per_second / 4));
  CHECK(quarter.memory_bytes_per_second == Approx(whole.memory_bytes_per_second / 4));
  CHECK(quarter.link_bytes_per_second == whole.link_bytes_per_second);
}
