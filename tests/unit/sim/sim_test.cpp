// Forecasts: hand-worked plans, and properties of forecasts of random ones.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <set>

#include "base/check.hpp"
#include "program/compile.hpp"
#include "program/work.hpp"
#include "sim/network.hpp"
#include "sim/profiles.hpp"
#include "sim/simulator.hpp"
#include "tests/support/random_graph.hpp"
#include "tests/support/seed.hpp"

using namespace tessera;
using doctest::Approx;
using graph::Graph;
using program::Mode;
using program::Phase;
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

// As many equal bands of rows as there are participants; the host is one of them, or only watches.
plan::Plan bands(const Graph& graph, int participants, bool idle_host = false) {
  std::vector<int> computing;
  for (int p = idle_host ? 1 : 0; p < participants; ++p) computing.push_back(p);
  geometry::GridShares cut;
  cut.rows.assign(computing.size(), 1.0);
  return make(graph, 1, testing::one_cut(graph, cut, computing, participants));
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
  c.plan = rng.chance(0.3) ? testing::random_free_plan(rng, c.graph, batch, true)
                           : make(c.graph, batch, testing::random_layout(rng, c.graph, batch));
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

  // The momentum of 18 weights is inspected, and they and it are read and written.
  const Forecast update = forecast(graph, plan, Mode::kTrain, {{1000, 100, 1, 1, 0}});
  CHECK(update.reduce_seconds == Approx(18 * 5 * sizeof(float) / 100.0));
}

TEST_CASE("two devices exchange one row of halo each way, and the result comes back") {
  const Graph graph = chain({1, 4, 4}, {{1, 3, 1}, {1, 3, 1}});
  const auto plan = bands(graph, 2);
  constexpr double kBytesPerSecond = 100, kMessage = 0.25;
  const std::vector<DeviceProfile> profiles(2, {kEndless, kEndless, kBytesPerSecond, kMessage, 0, 0});
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
      REQUIRE(f.reduce_seconds >= -1e-9 * seconds);
      std::uint64_t received = 0;
      for (std::size_t p = 0; p < f.devices.size(); ++p) {
        const auto& device = f.devices[p];
        received += device.received_bytes;
        REQUIRE(device.waiting_seconds >= -1e-9 * seconds);
        REQUIRE(device.busy_seconds + device.waiting_seconds == Approx(seconds));
        REQUIRE(device.arena_bytes == set.programs[p].arena_bytes);
        REQUIRE(device.parameter_bytes == set.programs[p].parameter_bytes);
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

using Bytes = std::vector<std::uint64_t>;

// Bytes of the messages that each participant sends in some phases.
Bytes sent_in(const program::ProgramSet& set, const std::set<Phase>& phases) {
  Bytes bytes;
  for (const auto& program : set.programs) {
    bytes.push_back(0);
    for (const auto& steps : program.phases)
      for (const auto& step : steps)
        if (program::is_send(step) && phases.contains(step.phase)) bytes.back() += program::message_bytes(program, step);
  }
  return bytes;
}

// Those that each sends because gradients are summed, and because weights have changed.
Bytes parameter_messages(const Graph& graph, const plan::Plan& plan) {
  const auto set = program::compile(graph, plan, Mode::kTrain);
  const auto f = sim::simulate(graph, set, std::vector<DeviceProfile>(set.programs.size(), DeviceProfile{1, 1000, 1000, 0.1, 0}));
  CHECK(f.reduce_seconds > 0);
  const auto all = sent_in(set, {Phase::kLoad, Phase::kForward, Phase::kBackward, Phase::kReduce, Phase::kShare});
  for (std::size_t p = 0; p < all.size(); ++p) CHECK(f.devices[p].sent_bytes == all[p]);
  return sent_in(set, {Phase::kReduce, Phase::kShare});
}

TEST_CASE("each of N participants that compute sends 2(N-1)/N of the gradient, a host without boxes nothing") {
  const Graph graph = chain({64, 16, 16}, {{384, 1, 0}});
  constexpr std::uint64_t kGradient = (384 * 64 + 384) * sizeof(float);  // weights and biases
  for (const int n : {2, 3, 4, 8}) {
    CAPTURE(n);
    const auto count = static_cast<std::uint64_t>(n);
    CHECK(parameter_messages(graph, bands(graph, n)) == Bytes(count, 2 * (count - 1) * kGradient / count));
    Bytes workers(count + 1, 2 * (count - 1) * kGradient / count);
    workers[0] = 0;
    CHECK(parameter_messages(graph, bands(graph, n + 1, true)) == workers);
  }
  // A small layer has one home, which everybody else sends to.
  const Graph small = chain({3, 16, 16}, {{16, 1, 0}});
  constexpr std::uint64_t kSmall = (16 * 3 + 16) * sizeof(float);
  CHECK(parameter_messages(small, bands(small, 4)) == Bytes{kSmall, 3 * kSmall, kSmall, kSmall});
}

TEST_CASE("cut along channels, only fresh biases and scales are sent, to those who normalise, and each has its filters only") {
  const Graph graph = chain({64, 8, 8}, {{64, 3, 1, true}, {64, 3, 1, true}, {64, 3, 1}});
  constexpr std::uint64_t kWeights = 64 * 64 * 9, kVectors = 2 * 4 * 64 + 64, kMomentum = (2 * 2 * 64 + 64) / 4;
  const auto plan = make(graph, 1, testing::one_cut(graph, {{1}, {1, 1, 1, 1}, {1}, {1}}, {1, 2, 3, 4}, 5));
  constexpr std::uint64_t kFresh = 2 * 3 * (2 * 64 / 4) * sizeof(float);  // of two layers, to three others
  const Bytes sent = parameter_messages(graph, plan);
  CHECK(sent == Bytes{0, kFresh, kFresh, kFresh, kFresh});
  const auto set = program::compile(graph, plan, Mode::kTrain);
  for (std::size_t p = 1; p < 5; ++p)
    CHECK(set.programs[p].parameter_bytes == sizeof(float) * (3 * 2 * kWeights / 4 + kVectors + kMomentum));
  CHECK(set.programs[0].parameter_bytes == sizeof(float) * kVectors);
}

TEST_CASE("batch norm's own gradients are not summed; momentum is divided, and gradients of one pass are among the tensors") {
  const Graph graph = chain({1024, 4, 4}, {{1024, 3, 1, true}, {1024, 3, 1, true}, {1024, 3, 1, true}});
  constexpr std::uint64_t kWeights = 1024 * 1024 * 9, kNorm = 2 * 1024, kStatistics = 2 * 1024;
  // Weights twice, fresh biases and scales.
  CHECK(parameter_messages(graph, bands(graph, 4)) == Bytes(4, 3 * sizeof(float) * (6 * kWeights + 3 * kNorm) / 4));
  const auto compiled = [&](Mode mode, int participants, bool single_pass = false) {
    auto plan = bands(graph, participants);
    plan.single_pass = single_pass;
    return program::compile(graph, plan, mode).programs.back();
  };
  const auto floats = [&](Mode mode, int participants) { return compiled(mode, participants).parameter_bytes / sizeof(float) / 3; };
  CHECK(floats(Mode::kTest, 4) == kWeights + kNorm + kStatistics);
  CHECK(floats(Mode::kTrain, 1) == 2 * kWeights + 2 * kNorm + kStatistics);
  CHECK(floats(Mode::kTrain, 4) == kWeights + kWeights / 4 + kNorm + kNorm / 4 + kStatistics);

  const auto arena = [&](int participants, bool single_pass) {
    return static_cast<double>(compiled(Mode::kTrain, participants, single_pass).arena_bytes) / (sizeof(float) * kWeights);
  };
  CHECK(arena(1, false) < 0.1);  // whoever computes all of a gradient adds it to the momentum
  CHECK(arena(4, false) == Approx(3).epsilon(0.05));
  CHECK(arena(4, true) < 2.1);
}

TEST_CASE("programs in which participants wait for each other fail a check that names both steps") {
  const Graph graph = chain({1, 4, 4}, {{1, 3, 1}});
  auto set = program::compile(graph, bands(graph, 2), Mode::kTest);
  program::Step receive;
  receive.op = program::Op::kReceive;
  receive.node = 1;
  receive.a = 0;
  for (std::size_t p = 0; p < 2; ++p) {
    receive.peer = 1 - static_cast<int>(p);
    receive.transfer = 100 + static_cast<std::uint32_t>(p);
    auto& steps = set.programs[p].steps(Phase::kLoad);
    steps.insert(steps.begin(), receive);
  }
  std::string message;
  try {
    sim::simulate(graph, set, std::vector<DeviceProfile>(2));
  } catch (const base::CheckFailure& failure) {
    message = failure.what();
  }
  CHECK(message.find("participants wait for each other") != std::string::npos);
  CHECK_MESSAGE(message.find("participant 0 at step 0 (receive of node 1 from 1, transfer 100)") != std::string::npos, message);
  CHECK_MESSAGE(message.find("participant 1 at step 0 (receive of node 1 from 0, transfer 101)") != std::string::npos, message);
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
