// darknet-worker, the program that `darknet worker` becomes: what it holds, and that nobody notices another difference.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <signal.h>

#include <filesystem>
#include <fstream>

#include "tests/support/training_run.hpp"

using namespace tessera::testing;
namespace fs = std::filesystem;

namespace {

std::string worker_program() { return fs::path(darknet_program()).replace_filename("darknet-worker").string(); }

std::string running_program(pid_t pid) { return fs::read_symlink(fmt::format("/proc/{}/exe", pid)).string(); }

// Files mapped into a process whose path contains one of these words.
std::vector<std::string> mapped(pid_t pid, const std::vector<std::string>& words) {
  std::ifstream maps(fmt::format("/proc/{}/maps", pid));
  std::vector<std::string> found;
  for (std::string line; std::getline(maps, line);)
    for (const auto& word : words)
      if (const auto slash = line.find('/'); slash != std::string::npos && line.find(word, slash) != std::string::npos)
        found.push_back(line);
  return found;
}

void check_is_lean(pid_t pid) {
  CHECK(running_program(pid) == fs::canonical(worker_program()).string());
  CHECK_FALSE(mapped(pid, {"libc.so", "libc-"}).empty());  // the list is read right
  CHECK(mapped(pid, {"opencv", "gdal", "Qt5", "darknet.so"}).empty());
}

}  // namespace

TEST_CASE("a worker's process is not linked to image libraries, by hand and local") {
  const TrainingFolder folder;
  const WorkerProcess worker(folder.path());
  check_is_lean(worker.pid());
  TrainingCfg cfg;
  cfg.distributed = {"workers=local:2", "threads=1"};
  TrainingRun run(folder, "local", cfg);
  for (const pid_t pid : run.worker_pids()) check_is_lean(pid);
  run.finish();
}

TEST_CASE("darknet serves as a worker by itself where darknet-worker does not lie beside it") {
  const TrainingFolder folder;
  const std::string alone = folder.path("darknet");
  fs::copy_file(darknet_program(), alone);
  const WorkerProcess first(folder.path());
  Process second({alone, "worker", "-listen", "tcp://127.0.0.1:*"}, folder.path());
  const std::string words = "worker listens at ", line = second.wait_for_line(words, 20);
  CHECK(running_program(second.pid()) == fs::canonical(alone).string());
  folder.write_cluster_file({first.address(), line.substr(line.find(words) + words.size())});
  TrainingCfg cfg;
  cfg.iterations = 5;
  cfg.distributed = {"workers=cluster.json", "threads=1"};
  train(folder, "mixed", cfg);
  CHECK(second.has_line("session over: closed"));
  second.signal(SIGTERM);
  CHECK(second.wait(10) == 0);
}

TEST_CASE("darknet worker and darknet-worker take the same command lines and refuse them in the same words") {
  const TrainingFolder folder;
  const std::vector<std::vector<std::string>> refused = {{"-listen", "nowhere"},
                                                         {"-listen"},
                                                         {"-threads", "-1"},
                                                         {"-threads", "many"},
                                                         {"-map"},
                                                         {"-lisen", "x"},
                                                         {"one", "too", "many"},
                                                         {"-listen", "tcp://*:5555"},
                                                         {"-i", "0", "-map"},
                                                         {"-parent", "x y"}};
  for (const auto& words : refused) {
    std::vector<std::string> whole{darknet_program(), "worker"}, own{worker_program()}, own_with_word{worker_program(), "worker"};
    for (auto* command : {&whole, &own, &own_with_word}) command->insert(command->end(), words.begin(), words.end());
    CAPTURE(words.front());
    Process reference(whole, folder.path());
    const int code = reference.wait(20);
    CHECK(code != 0);
    CHECK_FALSE(reference.err().empty());
    for (const auto& command : {own, own_with_word}) {
      Process process(command, folder.path());
      CHECK(process.wait(20) == code);
      CHECK(process.all() == reference.all());
    }
  }
  for (const auto& program : {std::vector{darknet_program(), std::string("worker")}, std::vector{worker_program()}}) {
    std::vector<std::string> command = program;
    for (const char* word : {"--listen=tcp://127.0.0.1:*", "-name", "a name", "-dont_show", "-i", "0"}) command.emplace_back(word);
    Process process(command, folder.path());
    process.wait_for_line("worker listens at tcp://127.0.0.1:", 20);
    CHECK(process.has_line("option -i has no meaning here"));
    process.signal(SIGTERM);
    CHECK(process.wait(20) == 0);
  }
}
