// Mistakes in what concerns workers: one line that says what, where and what to do, exit code 1, within 5 s.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>

#include "cluster/protocol.hpp"
#include "tests/support/training_run.hpp"
#include "transport/zmq_control.hpp"
#include "wire/control.hpp"

using namespace tessera::testing;
using tessera::base::Deadline;
using tessera::base::Milliseconds;

namespace {

constexpr double kErrorSeconds = 5;

// All that follows the last "darknet: " on stderr is the message; upstream's table of layers comes before it.
void check_fails(Process& process, const std::vector<std::string>& parts) {
  CHECK(process.wait(20) == 1);
  CHECK(process.seconds() < kErrorSeconds);
  const std::string err = process.err();
  INFO(process.all());
  const std::size_t at = err.rfind("darknet: ");
  REQUIRE(at != std::string::npos);
  const std::string message = err.substr(at);
  CHECK(std::count(message.begin(), message.end(), '\n') == 1);
  for (const auto& part : parts) CHECK_MESSAGE(message.find(part) != std::string::npos, "wanted: ", part);
}

void check_cfg_fails(const TrainingFolder& folder, const std::vector<std::string>& lines, const std::vector<std::string>& parts) {
  INFO(lines[0]);
  TrainingCfg cfg;
  cfg.distributed = lines;
  TrainingRun run(folder, "bad", cfg);
  check_fails(run, parts);
  CHECK(folder.leftovers().empty());
}

void check_cluster_file_fails(const TrainingFolder& folder, const std::string& text, const std::vector<std::string>& parts) {
  INFO(text);
  folder.write("cluster.json", text);
  check_cfg_fails(folder, {"workers=cluster.json"}, parts);
}

// Listens like a worker and answers every hello with `answer`.
class FakeWorker {
 public:
  explicit FakeWorker(std::string answer)
      : control_(*tessera::transport::listen_control("tcp://127.0.0.1:*")), answer_(std::move(answer)), thread_([this] { serve(); }) {}
  ~FakeWorker() {
    stop_ = true;
    thread_.join();
  }
  std::string address() const { return "tcp://127.0.0.1" + control_->address().substr(control_->address().rfind(':')); }
  bool asked() const { return asked_; }

 private:
  void serve() {
    while (!stop_) {
      const auto incoming = control_->receive(Deadline::after(Milliseconds(20)));
      if (!incoming || !*incoming) continue;
      const auto message = tessera::wire::parse_control((*incoming)->text);
      if (!message || message->type != "hello") continue;
      asked_ = true;
      if (!control_->send((*incoming)->peer, answer_, {}, Deadline::after(Milliseconds(1000)))) return;
    }
  }

  const std::unique_ptr<tessera::transport::ControlServer> control_;
  const std::string answer_;
  std::atomic<bool> stop_ = false, asked_ = false;
  std::thread thread_;
};

}  // namespace

TEST_CASE("the [distributed] section's mistakes are named with file and line") {
  const TrainingFolder folder;
  check_cfg_fails(folder, {"wrokers=local:4"}, {"bad.cfg:18", "wrokers", "workers"});
  check_cfg_fails(folder, {"workers=local:0"}, {"bad.cfg:18", "local:0", "local:N"});
  check_cfg_fails(folder, {"workers=local:many"}, {"bad.cfg:18", "local:many", "local:N"});
  check_cfg_fails(folder, {"workers=absent.json"}, {"absent.json"});
  check_cfg_fails(folder, {"grid=two", "workers=local:2"}, {"bad.cfg:18", "grid", "two"});
  check_cfg_fails(folder, {"grid=3x2", "workers=local:4"}, {"bad.cfg:17", "grid 3x2 has 6 tiles for 4"});
  check_cfg_fails(folder, {"memory_mb=-1", "workers=local:2"}, {"bad.cfg:18", "memory_mb"});
  check_cfg_fails(folder, {"wire=fp8", "workers=local:2"}, {"bad.cfg:18", "wire"});
  check_cfg_fails(folder, {"layers=11", "workers=local:2"}, {"bad.cfg:17", "layer 10 cannot be wrapped", "yolo", "layers 0 to 9"});
  check_cfg_fails(folder, {"layers=0", "workers=local:2"}, {"bad.cfg:18", "layers"});

  TrainingCfg cfg;
  cfg.distributed = {"workers=local:2"};
  folder.write("adam.cfg", "[net]\nadam=1\n" + cfg.text().substr(cfg.text().find('\n') + 1));
  Process adam({darknet_program(), "detector", "train", "obj.data", "adam.cfg", "-dont_show"}, folder.path());
  check_fails(adam, {"adam.cfg:18", "adam=1 works on one device only so far", "remove workers="});

  Process missing({darknet_program(), "detector", "train", "obj.data", "absent.cfg", "-dont_show"}, folder.path());
  check_fails(missing, {"absent.cfg"});
}

TEST_CASE("a plan that needs more memory than it may have is refused with the numbers of every device") {
  const TrainingFolder folder;
  TrainingCfg cfg;
  cfg.side = 256;
  cfg.subdivisions = 1;
  cfg.distributed = {"memory_mb=1", "workers=local:2"};
  TrainingRun run(folder, "bad", cfg);
  check_fails(run, {"bad.cfg:17", "does not fit", "local:1 needs", "local:2 needs", "of 1 MB"});
  CHECK(folder.leftovers().empty());
}

TEST_CASE("cluster files that are broken are refused") {
  const TrainingFolder folder;
  check_cluster_file_fails(folder, "", {"cluster.json"});
  check_cluster_file_fails(folder, "{\"workers\": [", {"cluster.json"});
  check_cluster_file_fails(folder, "[]", {"cluster.json", "\"workers\""});
  check_cluster_file_fails(folder, R"({"workers": []})", {"cluster.json", "\"workers\""});
  check_cluster_file_fails(folder, R"({"workers": ["tcp://a:1"]})", {"cluster.json: worker 1", "address"});
  check_cluster_file_fails(folder, R"({"workers": [{"name": "pi1"}]})", {"cluster.json: worker 1"});
  check_cluster_file_fails(folder, R"({"workers": [{"address": "pi1.local"}]})", {"cluster.json: worker 1", "pi1.local"});
  check_cluster_file_fails(folder, R"({"workers": [{"address": 5}]})", {"cluster.json: worker 1", "\"address\"", "5"});
  check_cluster_file_fails(folder, R"({"workers": [{"address": "tcp://127.0.0.1:5555", "sped": 2}]})",
                           {"cluster.json: worker 1", "sped", "speed"});
  check_cluster_file_fails(folder, R"({"workers": [{"address": "tcp://127.0.0.1:5555", "speed": -2}]})",
                           {"cluster.json: worker 1", "speed", "-2"});
  check_cluster_file_fails(folder, R"({"workers": [{"address": "tcp://127.0.0.1:5555"}, {"address": "tcp://127.0.0.1:5555"}]})",
                           {"cluster.json: worker 2", "twice"});
}

TEST_CASE("a worker that cannot be reached is named, with what to start where") {
  const TrainingFolder folder;
  folder.write_cluster_file({"tcp://127.0.0.1:1"});
  check_cfg_fails(folder, {"workers=cluster.json"}, {"worker w1", "darknet worker -listen tcp://127.0.0.1:1"});
}

TEST_CASE("a worker of another version is refused") {
  using tessera::cluster::kProtocol;
  const TrainingFolder folder;
  {
    INFO("one that does not mind");
    const FakeWorker worker(
        tessera::wire::control_text("welcome", {{"name", "old"}, {"cores", 4}, {"memory_bytes", 1 << 30}, {"protocol", kProtocol + 1}}));
    folder.write_cluster_file({worker.address()});
    check_cfg_fails(folder, {"workers=cluster.json"}, {"worker w1", fmt::format("protocol {}", kProtocol + 1), "same version"});
    CHECK(worker.asked());
  }
  {
    INFO("one that refuses this version");
    const FakeWorker worker(
        tessera::wire::control_text("refuse", {{"code", 5}, {"message", "it speaks protocol 7, this coordinator 1"}, {"peer", -1}}));
    folder.write_cluster_file({worker.address()});
    check_cfg_fails(folder, {"workers=cluster.json"}, {"worker w1", "it speaks protocol 7"});
    CHECK(worker.asked());
  }
  {
    INFO("ours, asked by another version");
    const WorkerProcess worker(folder.path());
    const auto client = tessera::transport::connect_control(worker.address(), "other", Deadline::after(Milliseconds(5000)));
    REQUIRE(client);
    REQUIRE((*client)->send(tessera::wire::control_text("hello", {{"protocol", kProtocol + 1}}), {}, Deadline::after(Milliseconds(1000))));
    const auto answer = (*client)->receive(Deadline::after(Milliseconds(5000)));
    REQUIRE(answer);
    REQUIRE(answer->has_value());
    const auto message = tessera::wire::parse_control((*answer)->text);
    REQUIRE(message);
    CHECK(message->type == "refuse");
    CHECK(message->body.at("message").get<std::string>().find("same version") != std::string::npos);
  }
}

TEST_CASE("darknet worker says why it cannot listen") {
  const TrainingFolder folder;
  const WorkerProcess worker(folder.path());
  const auto check_listen_fails = [&](const std::string& address, const std::vector<std::string>& parts) {
    INFO(address);
    Process second({darknet_program(), "worker", "-listen", address}, folder.path());
    check_fails(second, parts);
  };
  const std::string port = worker.address().substr(worker.address().rfind(':') + 1);
  check_listen_fails("tcp://127.0.0.1:" + port, {port, "in use"});
  check_listen_fails("tcp://0.0.0.0:*", {"tcp://0.0.0.0:*", "-insecure"});
  check_listen_fails("tcp://*:5555", {"-insecure"});
  check_listen_fails("127.0.0.1:5555", {"127.0.0.1:5555", "tcp://"});
  check_listen_fails("ipc:///no/such/folder/socket", {"/no/such/folder"});
}

TEST_CASE("workers on other machines need -insecure") {
  const TrainingFolder folder;
  folder.write_cluster_file({"tcp://192.0.2.1:5555"});
  check_cfg_fails(folder, {"workers=cluster.json"}, {"-insecure"});
}
