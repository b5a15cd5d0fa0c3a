// Strangers at a worker's ports in the middle of a training: they cost themselves their connection and nobody else
// anything.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <random>

#include "tests/support/seed.hpp"
#include "tests/support/training_run.hpp"
#include "tests/support/transport_raw.hpp"
#include "transport/zmq_control.hpp"
#include "wire/control.hpp"

using namespace tessera::testing;
using tessera::base::Deadline;
using tessera::base::Milliseconds;

namespace {

std::string random_bytes(std::mt19937_64& random, std::size_t count) {
  std::string bytes(count, '\0');
  std::generate(bytes.begin(), bytes.end(), [&] { return static_cast<char>(random()); });
  return bytes;
}

void send_garbage_to(const std::string& address, std::mt19937_64& random) {
  RawConnection(address).write(random_bytes(random, 3000));
  RawConnection(address).write("GET / HTTP/1.1\r\nHost: worker\r\n\r\n");
  for (const char* type : {"DEALER", "ROUTER", "PUB"}) {
    RawConnection stranger(address);
    stranger.shake_hands(type);
    for (int i = 0; i < 5; ++i) stranger.write(zmtp_frame(random_bytes(random, 1 + random() % 400), random() % 2 == 0));
    stranger.write(zmtp_long_frame_start(std::uint64_t{1} << 62));
    stranger.write(random_bytes(random, 2000));
  }
}

// A stranger that speaks the control protocol's framing, and then nonsense in it.
void send_nonsense_to(const std::string& address, std::mt19937_64& random) {
  const std::string texts[] = {"{",
                               "{}",
                               "[1]",
                               R"({"type": "open"})",
                               R"({"type": "run", "key": -1})",
                               R"({"type": "abort"})",
                               R"({"type": "close"})",
                               R"({"type": "hello"})",
                               R"({"type": "hello", "protocol": "x"})",
                               std::string(1000, '['),
                               random_bytes(random, 500)};
  for (const auto& text : texts) {
    const auto client = tessera::transport::connect_control(address, "stranger", Deadline::after(Milliseconds(5000)));
    REQUIRE(client);
    static_cast<void>((*client)->send(text, {}, Deadline::after(Milliseconds(500))));
    static_cast<void>((*client)->receive(Deadline::after(Milliseconds(20))));
  }
}

}  // namespace

TEST_CASE("garbage at a worker's control and data ports changes no bit of the result") {
  const TrainingFolder folder;
  const WorkerProcess first(folder.path()), second(folder.path());
  folder.write_cluster_file({first.address(), second.address()});
  TrainingCfg cfg;
  cfg.iterations = 150;
  cfg.distributed = {"workers=cluster.json", "grid=2x1", "threads=1"};
  const std::string undisturbed = train(folder, "undisturbed", cfg);

  std::mt19937_64 random(seed());
  CAPTURE(seed());
  TrainingRun run(folder, "disturbed", cfg);
  run.wait_for_iteration(3);
  for (const WorkerProcess* worker : {&first, &second}) {
    const auto ports = listening_ports(worker->pid());
    CHECK(ports.size() == 2);  // control and data
    for (const int port : ports) send_garbage_to(fmt::format("tcp://127.0.0.1:{}", port), random);
    send_nonsense_to(worker->address(), random);
  }
  for (const int port : listening_ports(run.pid())) send_garbage_to(fmt::format("tcp://127.0.0.1:{}", port), random);
  REQUIRE_FALSE(run.has_line("saved "));  // else it was not in the middle
  CHECK(run.finish() == undisturbed);
  CHECK_FALSE(run.has_line("going on with"));
  CHECK(is_running(first.pid()));
  CHECK(is_running(second.pid()));
  CHECK(train(folder, "afterwards", cfg) == undisturbed);
}
