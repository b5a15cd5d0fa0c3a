#include "tests/support/transport_raw.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <stdexcept>
#include <thread>
#include <vector>

namespace tessera::testing {
namespace {

[[noreturn]] void fail(const char* what) { throw std::runtime_error(std::string(what) + ": " + std::strerror(errno)); }

sockaddr_in loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  return address;
}

bool readable(int fd, int timeout_ms) {
  pollfd item{fd, POLLIN, 0};
  return ::poll(&item, 1, timeout_ms) > 0;
}

std::string zmtp_greeting() {
  std::string greeting(64, '\0');
  greeting[0] = '\xff';
  greeting[8] = '\x01';
  greeting[9] = '\x7f';
  greeting[10] = 3;  // version 3.0
  greeting.replace(12, 4, "NULL");
  return greeting;
}

std::string zmtp_ready(const std::string& socket_type) {
  std::string body = std::string("\x05READY", 6) + std::string("\x0bSocket-Type", 12);
  body += std::string("\0\0\0", 3) + static_cast<char>(socket_type.size()) + socket_type;
  return std::string("\x04", 1) + static_cast<char>(body.size()) + body;
}

}  // namespace

RawConnection::RawConnection(const std::string& address) : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  const sockaddr_in to = loopback(std::stoi(address.substr(address.rfind(':') + 1)));
  if (fd_ < 0 || ::connect(fd_, reinterpret_cast<const sockaddr*>(&to), sizeof(to)) != 0) fail("raw connection");
}

RawConnection::~RawConnection() { ::close(fd_); }

void RawConnection::write(const std::string& bytes) {
  const char* at = bytes.data();
  std::size_t left = bytes.size();
  while (left > 0) {
    pollfd item{fd_, POLLOUT, 0};
    if (::poll(&item, 1, 200) <= 0) return;
    const auto sent = ::send(fd_, at, left, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent <= 0) return;
    at += sent;
    left -= static_cast<std::size_t>(sent);
  }
}

std::string RawConnection::read(std::size_t bytes) {
  std::string all;
  while (all.size() < bytes && readable(fd_, 2000)) {
    char part[512];
    const auto got = ::recv(fd_, part, std::min(sizeof(part), bytes - all.size()), 0);
    if (got <= 0) break;
    all.append(part, static_cast<std::size_t>(got));
  }
  return all;
}

void RawConnection::shake_hands(const std::string& socket_type) {
  write(zmtp_greeting());
  if (read(64).size() != 64) fail("ZMTP greeting");
  write(zmtp_ready(socket_type));
  // The other side's READY: a short command, flags and size first.
  const std::string start = read(2);
  if (start.size() != 2 || read(static_cast<unsigned char>(start[1])).empty()) fail("ZMTP READY");
}

bool RawConnection::is_closed_by_peer() {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(3);
  while (std::chrono::steady_clock::now() < end) {
    if (!readable(fd_, 100)) continue;
    char part[4096];
    if (::recv(fd_, part, sizeof(part), 0) <= 0) return true;
  }
  return false;
}

std::string zmtp_frame(const std::string& body, bool more) {
  const bool is_long = body.size() > 255;
  std::string frame(1, static_cast<char>((more ? 1 : 0) | (is_long ? 2 : 0)));
  for (int shift = is_long ? 56 : 0; shift >= 0; shift -= 8) frame += static_cast<char>(body.size() >> shift & 0xff);
  return frame + body;
}

std::string zmtp_long_frame_start(std::uint64_t length) {
  std::string frame(1, '\x02');
  for (int shift = 56; shift >= 0; shift -= 8) frame += static_cast<char>(length >> shift & 0xff);
  return frame;
}

struct ForeignListener::State {
  int fd = -1;
  int port = 0;
  std::atomic<bool> stop{false};
  std::thread thread;
};

ForeignListener::ForeignListener(const std::string& reply) : state_(new State) {
  state_->fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = loopback(0);
  socklen_t length = sizeof(address);
  if (state_->fd < 0 || ::bind(state_->fd, reinterpret_cast<sockaddr*>(&address), length) != 0 || ::listen(state_->fd, 8) != 0 ||
      ::getsockname(state_->fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    fail("foreign listener");
  }
  state_->port = ntohs(address.sin_port);
  state_->thread = std::thread([state = state_, reply] {
    std::vector<int> accepted;
    while (!state->stop) {
      if (!readable(state->fd, 20)) continue;
      accepted.push_back(::accept(state->fd, nullptr, nullptr));
      ::send(accepted.back(), reply.data(), reply.size(), MSG_NOSIGNAL);
    }
    for (const int fd : accepted) ::close(fd);
  });
}

ForeignListener::~ForeignListener() {
  state_->stop = true;
  state_->thread.join();
  ::close(state_->fd);
  delete state_;
}

std::string ForeignListener::address() const { return "tcp://127.0.0.1:" + std::to_string(state_->port); }

void Child::Pipe::say(const std::string& line) const {
  const std::string text = line + "\n";
  if (::write(out, text.data(), text.size()) != static_cast<ssize_t>(text.size())) fail("pipe");
}

std::string Child::Pipe::hear() const {
  std::string line;
  char c;
  while (readable(in, 20'000) && ::read(in, &c, 1) == 1 && c != '\n') line += c;
  return line;
}

Child::Child(const std::function<void(const Pipe&)>& body) {
  int down[2], up[2];
  if (::pipe(down) != 0 || ::pipe(up) != 0) fail("pipe");
  pid_ = ::fork();
  if (pid_ < 0) fail("fork");
  if (pid_ == 0) {
    ::close(down[1]);
    ::close(up[0]);
    ::alarm(60);  // never outlives a parent that dies
    try {
      body({down[0], up[1]});
    } catch (...) {
      ::_exit(1);
    }
    ::_exit(0);
  }
  ::close(down[0]);
  ::close(up[1]);
  pipe_ = {up[0], down[1]};
}

Child::~Child() {
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
  ::close(pipe_.in);
  ::close(pipe_.out);
}

void Child::signal(int number) const { ::kill(pid_, number); }

}  // namespace tessera::testing
