// What a test needs to play a stranger, a foreign program, or a participant that dies: bare sockets and child
// processes.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string>

namespace tessera::testing {

// A TCP connection to "tcp://127.0.0.1:port", closed by the destructor. Writes never raise SIGPIPE; what the other side
// does not take is dropped.
class RawConnection {
 public:
  explicit RawConnection(const std::string& address);
  ~RawConnection();
  RawConnection(const RawConnection&) = delete;
  RawConnection& operator=(const RawConnection&) = delete;

  void write(const std::string& bytes);
  // Greets as a ZMTP 3.0 client with NULL security, up to the point where messages may follow.
  void shake_hands(const std::string& socket_type);
  // Until `bytes` have come, the other side closes or 2 s have passed.
  std::string read(std::size_t bytes);
  // Whether the other side has closed within 3 s; reads and forgets what comes.
  bool is_closed_by_peer();

 private:
  int fd_;
};

// What such a client sends after it.
std::string zmtp_frame(const std::string& body, bool more);
// A frame that announces `length` bytes and has none.
std::string zmtp_long_frame_start(std::uint64_t length);

// Listens on 127.0.0.1 and answers every connection with `reply`, after which it says nothing and closes nothing.
class ForeignListener {
 public:
  explicit ForeignListener(const std::string& reply);
  ~ForeignListener();
  ForeignListener(const ForeignListener&) = delete;
  ForeignListener& operator=(const ForeignListener&) = delete;

  std::string address() const;

 private:
  struct State;
  State* state_;
};

// A forked process that runs `body` and exits; it talks with its parent in lines. Killed and reaped by the destructor.
class Child {
 public:
  struct Pipe {
    int in;
    int out;
    void say(const std::string& line) const;
    std::string hear() const;  // "" when the other side is gone
  };

  explicit Child(const std::function<void(const Pipe&)>& body);
  ~Child();
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  const Pipe& pipe() const { return pipe_; }
  void signal(int number) const;

 private:
  pid_t pid_;
  Pipe pipe_{};
};

}  // namespace tessera::testing
