#include "cluster/local_workers.hpp"

#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <thread>

#include "base/clock.hpp"

extern char** environ;

namespace tessera::cluster {

using base::ErrorCode;

namespace {

constexpr base::Milliseconds kStopPatience{2000};

// The process inherits `descriptor`, if that is one.
base::Result<pid_t> spawn(const std::string& program, std::vector<std::string> arguments, int descriptor) {
  std::vector<char*> argv;
  for (auto& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  // A terminal's Ctrl-C is for the coordinator, which then ends its workers in order.
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  if (descriptor >= 0) posix_spawn_file_actions_adddup2(&files, descriptor, descriptor);  // onto itself: to be kept open
  pid_t pid = 0;
  const int failed = posix_spawnp(&pid, program.c_str(), &files, &attributes, argv.data(), environ);
  posix_spawn_file_actions_destroy(&files);
  posix_spawnattr_destroy(&attributes);
  if (failed) return base::error(ErrorCode::kIo, "cannot start a worker process ({}): {}", program, std::strerror(failed));
  return pid;
}

}  // namespace

std::string worker_program() {
  std::error_code failed;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", failed);
  const auto beside = self.parent_path() / "darknet-worker";
  return !failed && access(beside.c_str(), X_OK) == 0 ? beside.string() : "";
}

base::Result<LocalWorkers> LocalWorkers::start(const std::string& program, int count, int threads) {
  LocalWorkers workers;
  std::string directory = (std::filesystem::temp_directory_path() / "tessera-XXXXXX").string();
  if (!mkdtemp(directory.data()))
    return base::error(ErrorCode::kIo, "{}: cannot make a directory for sockets: {}", directory, std::strerror(errno));
  workers.directory_ = directory;
  const std::string own = worker_program();
  const std::string& starts = own.empty() ? program : own;
  if (count + 1 <= transport::kMostSharers) workers.shared_memory_ = transport::SharedMemory::create(count + 1).value_or(nullptr);
  const int memory = workers.shared_memory_ ? workers.shared_memory_->descriptor() : -1;
  for (int i = 1; i <= count; ++i) {
    const std::string name = fmt::format("local:{}", i), address = fmt::format("ipc://{}/worker-{}", directory, i);
    TESSERA_ASSIGN(const pid_t pid, spawn(starts,
                                          {starts, "worker", "-listen", address, "-name", name, "-once", "-parent",
                                           fmt::to_string(getpid()), "-shared_memory", fmt::to_string(memory)},
                                          memory));
    workers.pids_.push_back(pid);
    workers.specs_.push_back({name, address, 1.0, threads, 0});
  }
  return workers;
}

LocalWorkers::LocalWorkers(LocalWorkers&& other) noexcept
    : directory_(std::move(other.directory_)),
      specs_(std::move(other.specs_)),
      pids_(std::move(other.pids_)),
      shared_memory_(std::move(other.shared_memory_)) {
  other.directory_.clear();
  other.pids_.clear();
}

LocalWorkers::~LocalWorkers() {
  for (pid_t pid : pids_) {
    kill(pid, SIGTERM);
    kill(pid, SIGCONT);  // a stopped one could not end
  }
  const auto deadline = base::Deadline::after(kStopPatience);
  for (pid_t pid : pids_) {
    while (waitpid(pid, nullptr, WNOHANG) == 0) {
      if (deadline.passed()) kill(pid, SIGKILL);
      std::this_thread::sleep_for(base::Milliseconds(5));
    }
  }
  std::error_code ignored;
  if (!directory_.empty()) std::filesystem::remove_all(directory_, ignored);
}

}  // namespace tessera::cluster
