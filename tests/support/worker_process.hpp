// Processes that tests start, watch line by line, send signals to, and never leave behind.
#pragma once

#include <sys/types.h>

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.hpp"

namespace tessera::testing {

// The built program: TESSERA_DARKNET from the environment, else the one the tests were compiled for.
std::string darknet_program();

// A running program. It is killed when this object or the test program ends. What goes wrong with it is thrown as
// std::runtime_error, with everything it has printed.
class Process {
 public:
  // `command`: the executable's path, or its name on the PATH, and its arguments. TMPDIR is the folder's `tmp`.
  Process(const std::vector<std::string>& command, const std::string& folder);
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  pid_t pid() const { return pid_; }
  void signal(int number) const;

  // The first line, of both streams, that contains `text` and was printed after `since`. Waits for it.
  std::string wait_for_line(const std::string& text, double limit_seconds, base::TimePoint since = {}) const;
  // When that line came. Wants it to be there already.
  base::TimePoint time_of_line(const std::string& text, base::TimePoint since = {}) const;
  bool has_line(const std::string& text) const;

  // The exit code, 128 + signal after a signal. Kills the process and throws when it has not ended by then.
  int wait(double limit_seconds);
  double seconds() const;  // from start to end, after wait()

  std::string out() const { return text(1); }
  std::string err() const { return text(2); }
  std::string all() const { return text(0); }

 private:
  struct Line {
    int stream;
    std::string text;
    base::TimePoint when;
  };

  void read();
  std::string text(int stream) const;
  const Line* find(const std::string& text, base::TimePoint since) const;  // under mutex_
  [[noreturn]] void fail(const std::string& what) const;

  const std::string name_;
  const base::TimePoint started_ = base::Clock::now();
  base::TimePoint ended_;
  pid_t pid_ = -1;
  int status_ = -1;
  bool reaped_ = false;
  int pipes_[2] = {-1, -1};

  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::vector<Line> lines_;
  bool finished_ = false;  // both streams are at their end
  bool stopping_ = false;
  std::thread reader_;
};

// `darknet worker`, listening at an address of its own choice.
class WorkerProcess : public Process {
 public:
  explicit WorkerProcess(const std::string& folder, const std::string& listen = "tcp://127.0.0.1:*",
                         const std::vector<std::string>& before = {});

  const std::string& address() const { return address_; }

 private:
  std::string address_;
};

// Whether a process is there and no zombie.
bool is_running(pid_t pid);

// Ports on which the process listens for TCP connections from this machine, in ascending order.
std::vector<int> listening_ports(pid_t pid);

// Waits until `condition()` is true or time is up, and returns which.
template <typename Condition>
bool becomes_true(Condition condition, double limit_seconds) {
  const auto deadline = base::Deadline::after(base::Milliseconds(static_cast<int>(limit_seconds * 1000)));
  while (!condition()) {
    if (deadline.passed()) return false;
    std::this_thread::sleep_for(base::Milliseconds(10));
  }
  return true;
}

}  // namespace tessera::testing
