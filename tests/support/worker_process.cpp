#include "tests/support/worker_process.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <stdexcept>

namespace tessera::testing {

using base::Clock;
using base::Deadline;
using base::Milliseconds;

namespace {

constexpr double kStartSeconds = 20;
constexpr Milliseconds kPollInterval{20};

Deadline after_seconds(double seconds) { return Deadline::after(Milliseconds(static_cast<int>(seconds * 1000))); }

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const auto& word : words) text += (text.empty() ? "" : " ") + word;
  return text;
}

// What the child does between fork and exec; only calls that are safe there.
[[noreturn]] void become(char* const* arguments, char* const* environment, const char* folder, const int* ends, pid_t parent) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const int in = ::open("/dev/null", O_RDONLY);
  const bool ready =
      ::getppid() == parent && in >= 0 && ::chdir(folder) == 0 && ::dup2(in, 0) >= 0 && ::dup2(ends[0], 1) >= 0 && ::dup2(ends[1], 2) >= 0;
  if (ready) ::execvpe(arguments[0], arguments, environment);
  ::_exit(127);
}

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> result;
  for (auto& word : words) result.push_back(word.data());
  result.push_back(nullptr);
  return result;
}

std::vector<std::string> environment_with(const std::string& name, const std::string& value) {
  std::vector<std::string> result;
  for (char** entry = environ; *entry; ++entry)
    if (std::strncmp(*entry, (name + "=").c_str(), name.size() + 1) != 0) result.emplace_back(*entry);
  result.push_back(name + "=" + value);
  return result;
}

}  // namespace

std::string darknet_program() {
  const char* path = std::getenv("TESSERA_DARKNET");
  return path ? path : TESSERA_DARKNET;
}

Process::Process(const std::vector<std::string>& command, const std::string& folder) : name_(joined(command)) {
  std::filesystem::create_directories(folder + "/tmp");
  auto words = command;
  auto environment = environment_with("TMPDIR", folder + "/tmp");
  const auto arguments = pointers(words), variables = pointers(environment);
  int out[2], err[2];
  if (::pipe2(out, O_CLOEXEC) != 0 || ::pipe2(err, O_CLOEXEC) != 0) fail("no pipes");
  const int ends[2] = {out[1], err[1]};
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ == 0) become(arguments.data(), variables.data(), folder.c_str(), ends, parent);
  ::close(out[1]);
  ::close(err[1]);
  pipes_[0] = out[0], pipes_[1] = err[0];
  if (pid_ < 0) fail("cannot fork");
  reader_ = std::thread([this] { read(); });
}

Process::~Process() {
  if (!reaped_) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  reader_.join();
  for (const int pipe : pipes_) ::close(pipe);
}

void Process::signal(int number) const {
  if (::kill(pid_, number) != 0) fail(fmt::format("cannot be sent signal {}", number));
}

void Process::read() {
  std::string rest[2];
  bool open[2] = {true, true};
  const auto at_end = [&] {
    std::lock_guard lock(mutex_);
    if (open[0] || open[1]) return stopping_;
    finished_ = true;
    changed_.notify_all();
    return true;
  };
  while (!at_end()) {
    pollfd polls[2];
    for (int i = 0; i < 2; ++i) polls[i] = {open[i] ? pipes_[i] : -1, POLLIN, 0};
    if (::poll(polls, 2, static_cast<int>(kPollInterval.count())) <= 0) continue;
    for (int i = 0; i < 2; ++i) {
      if (!polls[i].revents) continue;
      char buffer[4096];
      const ssize_t count = ::read(pipes_[i], buffer, sizeof buffer);
      const auto now = Clock::now();
      std::lock_guard lock(mutex_);
      if (count > 0) rest[i].append(buffer, static_cast<std::size_t>(count));
      if (count <= 0) open[i] = false;
      for (std::size_t end; (end = rest[i].find('\n')) != std::string::npos; rest[i].erase(0, end + 1))
        lines_.push_back({i + 1, rest[i].substr(0, end), now});
      if (count <= 0 && !rest[i].empty()) lines_.push_back({i + 1, rest[i], now});
      changed_.notify_all();
    }
  }
}

const Process::Line* Process::find(const std::string& text, base::TimePoint since) const {
  for (const auto& line : lines_)
    if (line.when >= since && line.text.find(text) != std::string::npos) return &line;
  return nullptr;
}

std::string Process::wait_for_line(const std::string& text, double limit_seconds, base::TimePoint since) const {
  const auto deadline = after_seconds(limit_seconds);
  {
    std::unique_lock lock(mutex_);
    while (true) {
      if (const Line* line = find(text, since)) return line->text;
      if (finished_ || deadline.passed()) break;
      changed_.wait_until(lock, deadline.when());
    }
  }
  fail(fmt::format("printed no line with '{}' within {} s", text, limit_seconds));
}

base::TimePoint Process::time_of_line(const std::string& text, base::TimePoint since) const {
  {
    std::lock_guard lock(mutex_);
    if (const Line* line = find(text, since)) return line->when;
  }
  fail(fmt::format("has not printed a line with '{}'", text));
}

bool Process::has_line(const std::string& text) const {
  std::lock_guard lock(mutex_);
  return find(text, {}) != nullptr;
}

int Process::wait(double limit_seconds) {
  const auto deadline = after_seconds(limit_seconds);
  while (!reaped_) {
    const pid_t done = ::waitpid(pid_, &status_, WNOHANG);
    if (done == pid_) {
      reaped_ = true;
      ended_ = Clock::now();
    } else if (deadline.passed()) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, &status_, 0);
      reaped_ = true;
      fail(fmt::format("was still running after {} s", limit_seconds));
    } else {
      std::this_thread::sleep_for(Milliseconds(5));
    }
  }
  // What it printed last may still be on its way; a descendant that keeps the pipe open is not waited for long.
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, Milliseconds(2000), [this] { return finished_; });
  return WIFEXITED(status_) ? WEXITSTATUS(status_) : 128 + WTERMSIG(status_);
}

double Process::seconds() const { return base::seconds_between(started_, ended_); }

std::string Process::text(int stream) const {
  std::lock_guard lock(mutex_);
  std::string all;
  for (const auto& line : lines_)
    if (stream == 0 || line.stream == stream) all += line.text + '\n';
  return all;
}

void Process::fail(const std::string& what) const { throw std::runtime_error(fmt::format("`{}` {}; it printed:\n{}", name_, what, all())); }

namespace {

std::vector<std::string> worker_command(const std::string& listen, std::vector<std::string> command) {
  for (const std::string& word : {darknet_program(), std::string("worker"), std::string("-listen"), listen}) command.push_back(word);
  if (listen.find("127.0.0.1") == std::string::npos && listen.starts_with("tcp://")) command.push_back("-insecure");
  return command;
}

}  // namespace

WorkerProcess::WorkerProcess(const std::string& folder, const std::string& listen, const std::vector<std::string>& before)
    : Process(worker_command(listen, before), folder) {
  const std::string words = "worker listens at ";
  const std::string line = wait_for_line(words, kStartSeconds);
  address_ = line.substr(line.find(words) + words.size());
}

bool is_running(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string stat;
  if (!std::getline(file, stat)) return false;
  const std::size_t name_end = stat.rfind(')');
  return name_end != std::string::npos && name_end + 2 < stat.size() && stat[name_end + 2] != 'Z';
}

std::vector<int> listening_ports(pid_t pid) {
  std::set<std::string> sockets;
  for (const auto& entry : std::filesystem::directory_iterator(fmt::format("/proc/{}/fd", pid))) {
    std::error_code gone;
    const std::string target = std::filesystem::read_symlink(entry.path(), gone).string();
    if (target.starts_with("socket:[")) sockets.insert(target.substr(8, target.size() - 9));
  }
  constexpr const char* kListening = "0A";
  std::vector<int> ports;
  for (const char* family : {"tcp", "tcp6"}) {
    std::ifstream table(fmt::format("/proc/{}/net/{}", pid, family));
    std::string line;
    std::getline(table, line);  // headings
    while (std::getline(table, line)) {
      std::istringstream words(line);
      std::string slot, local, remote, state, queues, timer, retransmits, user, timeout, inode;
      words >> slot >> local >> remote >> state >> queues >> timer >> retransmits >> user >> timeout >> inode;
      if (state == kListening && sockets.contains(inode)) ports.push_back(std::stoi(local.substr(local.find(':') + 1), nullptr, 16));
    }
  }
  std::sort(ports.begin(), ports.end());
  return ports;
}

}  // namespace tessera::testing
