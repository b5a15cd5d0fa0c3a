// `darknet plan -mode split`, as people run it.
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "tests/cluster/commands_fixture.hpp"

using tessera::testing::Outcome;
using tessera::testing::Workshop;

namespace {

constexpr const char* kCluster = R"({"server": {"gflops": 200, "bandwidth_mbit": 100}, "workers": [
  {"name": "quick", "address": "tcp://a:5555", "gflops": 20, "bandwidth_mbit": 100},
  {"name": "slow", "address": "tcp://b:5555", "gflops": 1, "bandwidth_mbit": 10, "memory_mb": 500}]})";

}  // namespace

TEST_CASE("plan -mode split prints the schedule, draws it, and refuses what is impossible") {
  const Workshop workshop;
  workshop.write("c.json", kCluster);
  workshop.derive_cfg("split.cfg", "[net]", "[net]");
  const std::vector<std::string> words = {"plan", "split.cfg", "-mode", "split", "-cluster", "c.json", "-batch", "8"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), words.begin(), words.end());
    return workshop.run(more);
  };
  const Outcome text = with({"-gantt", "round.png"});
  INFO(text.out);
  INFO(text.err);
  REQUIRE(text.code == 0);
  for (const char* part : {"server: 200 GFLOP/s and 100 Mbit/s", "cut after", "quick", "slow", "predicted round", "|", "u upload"})
    CHECK_MESSAGE(text.out.find(part) != std::string::npos, part);
  CHECK(workshop.read("round.png").substr(1, 3) == "PNG");

  const auto json = nlohmann::json::parse(with({"-json"}).out, nullptr, false);
  REQUIRE(json.is_object());
  double shares = 0;
  int batch = 0;
  for (const auto& device : json["devices"]) {
    shares += device["share_bytes_per_second"].get<double>();
    batch += device["batch"].get<int>();
    CHECK(device["computation_seconds"].get<double>() + device["upload_seconds"].get<double>() + device["server_seconds"].get<double>() +
              device["download_seconds"].get<double>() <=
          json["round_seconds"].get<double>() * (1 + 1e-9));
  }
  CHECK(batch == 8);
  CHECK(shares <= 100e6 / 8 * (1 + 1e-9));
  CHECK(json["devices"][0]["batch"].get<int>() > json["devices"][1]["batch"].get<int>());

  const auto deep = nlohmann::json::parse(with({"-json", "-privacy_min_layers", "3"}).out, nullptr, false);
  REQUIRE(deep.is_object());
  for (const auto& device : deep["devices"]) CHECK(device["depth"].get<int>() >= 3);
  const auto refused = [&](std::vector<std::string> more, const char* part) {
    const Outcome outcome = with(std::move(more));
    INFO(outcome.err);
    CHECK(outcome.code == 1);
    CHECK_MESSAGE(outcome.err.find(part) != std::string::npos, part);
  };
  refused({"-privacy_min_layers", "99"}, "-privacy_min_layers 99");
  refused({"-sync_every", "0"}, "-sync_every 0");
  refused({"-mode", "spilt"}, "-mode spilt");
  workshop.write("c.json", R"({"server": {"gflops": -1}, "workers": [{"address": "tcp://a:5555"}]})");
  refused({}, "server");
}
