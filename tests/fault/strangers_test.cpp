// Somebody who speaks the protocol well and means no good: what a peer says is no index and no text for a terminal without a check.
#include <doctest/doctest.h>

#include <atomic>
#include <nlohmann/json.hpp>
#include <thread>

#include "cluster/protocol.hpp"
#include "tests/support/training_run.hpp"
#include "transport/zmq_control.hpp"
#include "wire/control.hpp"

using namespace tessera::testing;
using nlohmann::json;
using tessera::base::Deadline;
using tessera::base::Milliseconds;

namespace {

// A socket for both kinds of IP reports 127.0.0.1 as [::ffff:127.0.0.1].
std::string plain(const std::string& address) { return "tcp://127.0.0.1" + address.substr(address.rfind(':')); }

}  // namespace

TEST_CASE("a worker that blames a participant who is not there is set aside itself, and its text is shown without escapes") {
  const TrainingFolder folder;
  const auto control = tessera::transport::listen_control("tcp://127.0.0.1:*"),
             data = tessera::transport::listen_control("tcp://127.0.0.1:*");
  REQUIRE(control);
  REQUIRE(data);
  std::atomic<bool> done = false;
  std::thread rogue([&] {
    while (!done) {
      static_cast<void>((*data)->receive(Deadline::after(Milliseconds(1))));
      const auto incoming = (*control)->receive(Deadline::after(Milliseconds(20)));
      if (!incoming || !*incoming) continue;
      const json message = json::parse((*incoming)->text);
      const auto say = [&](const char* type, const json& fields) {
        static_cast<void>(
            (*control)->send((*incoming)->peer, tessera::wire::control_text(type, fields), {}, Deadline::after(Milliseconds(1000))));
      };
      const std::string type = message.at("type");
      if (type == "hello")
        say("welcome", {{"name", "rogue"}, {"cores", 1}, {"memory_bytes", 1ull << 33}, {"protocol", message.at("protocol")}});
      if (type == "open") say("opened", {{"data_address", plain((*data)->address())}, {"has_parameters", true}});
      if (type == "connect") say("connected", {});
      if (type == "plan") say("planned", {{"key", message.at("key")}, {"arena_bytes", 1}});
      if (type == "momentum") say("momentum_taken", {{"offset", message.at("offset")}});
      if (type == "abort") say("aborted", {{"complete", true}});
      if (type == "beat")
        say("beat", {{"busy_seconds", 0.0},
                     {"waiting_seconds", 0.0},
                     {"sent_bytes", 0},
                     {"received_bytes", 0},
                     {"memory_bytes", 0},
                     {"memory_peak_bytes", 0}});
      if (type == "run") say("failed", {{"code", 4}, {"message", "it was not me\x1b[2J"}, {"peer", 60000}});
    }
  });
  folder.write_cluster_file({plain((*control)->address())});
  TrainingCfg cfg;
  cfg.distributed = {"workers=cluster.json", "threads=1"};
  TrainingRun run(folder, "rogue", cfg);
  const int code = run.wait(100);
  done = true;
  rogue.join();
  INFO(run.all());
  CHECK(code == 0);
  CHECK(run.all().find('\x1b') == std::string::npos);
}
