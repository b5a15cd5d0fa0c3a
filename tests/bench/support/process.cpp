#include "tests/bench/support/process.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <regex>
#include <thread>

namespace tessera::bench {
namespace {

// "VmHWM: 123 kB" of /proc/PID/status; 0 once the process has ended.
std::uint64_t peak_resident(pid_t pid) {
  std::ifstream status(fmt::format("/proc/{}/status", pid));
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmHWM:")) return std::strtoull(line.c_str() + 6, nullptr, 10) * 1024;
  return 0;
}

std::vector<pid_t> children_of(pid_t parent) {
  std::vector<pid_t> children;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    pid_t pid = 0;
    if (std::from_chars(name.data(), name.data() + name.size(), pid).ec != std::errc()) continue;
    std::ifstream file(entry.path() / "stat");
    std::string stat;
    std::getline(file, stat);
    const std::size_t after = stat.rfind(')');  // the name before it may hold anything
    char state = 0;
    int its_parent = 0;
    if (after != std::string::npos && std::sscanf(stat.c_str() + after + 1, " %c %d", &state, &its_parent) == 2 && its_parent == parent)
      children.push_back(pid);
  }
  return children;
}

base::Result<std::vector<double>> read_log(const Command& command) {
  static const std::regex iteration(R"(^(\d+): ([^,]+), (?:.* )?([0-9.]+) seconds.*)");
  static const std::regex prediction(R"((.*)(): Predicted in ([0-9.]+) seconds.*)");
  std::vector<double> seconds;
  std::ifstream file(command.log);
  std::smatch match;
  for (std::string line; std::getline(file, line);) {
    if (!std::regex_match(line, match, command.form == LogForm::kIterations ? iteration : prediction)) continue;
    if (!std::isfinite(std::strtod(match[2].str().c_str(), nullptr)))
      return base::error(base::ErrorCode::kInvalidArgument, "the loss of iteration {} is {}; its time says nothing", match[1].str(),
                         match[2].str());
    seconds.push_back(std::strtod(match[3].str().c_str(), nullptr));
  }
  if (seconds.size() != static_cast<std::size_t>(kWarmup + command.timed))
    return base::error(base::ErrorCode::kIo, "{} times in its log, {} expected; it ends with: {}", seconds.size(), kWarmup + command.timed,
                       last_line(command.log));
  seconds.erase(seconds.begin(), seconds.begin() + kWarmup);
  return seconds;
}

// SIGKILL reaches it when this process ends. -1 when it cannot be started.
pid_t start(const Command& command) {
  std::vector<char*> argv;
  for (const std::string& argument : command.arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const pid_t parent = ::getpid(), pid = ::fork();
  if (pid != 0) return pid;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(126);
  for (const auto& [name, value] : command.environment) ::setenv(name.c_str(), value.c_str(), 1);
  const int log = ::open(command.log.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  const int input = ::open(command.input.empty() ? "/dev/null" : command.input.c_str(), O_RDONLY | O_CLOEXEC);
  if (log < 0 || input < 0 || ::chdir(command.folder.c_str()) != 0) ::_exit(126);
  ::dup2(input, 0), ::dup2(log, 1), ::dup2(log, 2);
  ::execv(argv[0], argv.data());
  ::_exit(127);
}

base::Status check_exit(const Command& command, int status) {
  if (WIFSIGNALED(status))
    return base::error(base::ErrorCode::kIo, "ended by signal {}; it printed last: {}", WTERMSIG(status), last_line(command.log));
  if (WEXITSTATUS(status) == 127)
    return base::error(base::ErrorCode::kNotFound, "{} cannot be run; build it (make bench)", command.arguments.front());
  if (WEXITSTATUS(status) != 0)
    return base::error(base::ErrorCode::kIo, "exit status {}; it printed last: {}", WEXITSTATUS(status), last_line(command.log));
  return {};
}

base::Result<pid_t> started(const Command& command) {
  const pid_t pid = start(command);
  if (pid < 0) return base::error(base::ErrorCode::kIo, "cannot start {}: {}", command.arguments.front(), std::strerror(errno));
  return pid;
}

}  // namespace

std::string last_line(const std::string& path) {
  std::ifstream file(path);
  std::string last = "(it printed nothing)";
  for (std::string line; std::getline(file, line);)
    if (!line.empty()) last = line;
  return last;
}

base::Status run_to_end(const Command& command) {
  TESSERA_ASSIGN(const pid_t pid, started(command));
  int status = 0;
  if (::waitpid(pid, &status, 0) != pid)
    return base::error(base::ErrorCode::kIo, "waiting for {}: {}", command.arguments.front(), std::strerror(errno));
  return check_exit(command, status);
}

base::Result<Run> run_command(const Command& command, base::Milliseconds patience) {
  constexpr base::Milliseconds kSample{20};
  constexpr int kLookForWorkers = 10;  // every so many samples
  // A child inherits its parent's ru_maxrss over exec, so that the kernel's figure says something above this one only.
  rusage own{};
  ::getrusage(RUSAGE_SELF, &own);
  const auto deadline = base::Deadline::after(patience);
  TESSERA_ASSIGN(const pid_t pid, started(command));
  // The latest value counts, not the largest: before its exec a child shows the memory of its parent.
  std::uint64_t process_peak = 0;
  std::map<pid_t, std::uint64_t> workers;
  int status = 0;
  rusage usage{};
  for (int sample = 0; ::wait4(pid, &status, WNOHANG, &usage) == 0; ++sample) {
    if (deadline.passed()) {
      ::kill(pid, SIGKILL);
      ::wait4(pid, &status, 0, &usage);
      return base::error(base::ErrorCode::kTimeout, "not done after {} s; raise --timeout", patience.count() / 1000);
    }
    if (const auto peak = peak_resident(pid)) process_peak = peak;
    if (sample % kLookForWorkers == 0)
      for (const pid_t child : children_of(pid)) workers.try_emplace(child, 0);
    for (auto& [worker, worker_peak] : workers)
      if (const auto peak = peak_resident(worker)) worker_peak = peak;
    std::this_thread::sleep_for(kSample);
  }
  TESSERA_TRY(check_exit(command, status));
  Run run;
  TESSERA_ASSIGN(run.seconds, read_log(command));
  // wait4 counts the children of the child as well, hence only for a process that had none.
  const bool exact = workers.empty() && usage.ru_maxrss > own.ru_maxrss;
  run.peak_bytes = exact ? static_cast<std::uint64_t>(usage.ru_maxrss) * 1024 : process_peak;
  for (const auto& [worker, peak] : workers)
    if (peak > 0) run.worker_peak_bytes.push_back(peak);
  return run;
}

}  // namespace tessera::bench
