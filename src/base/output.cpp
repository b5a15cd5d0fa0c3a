#include "base/output.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstring>

namespace tessera::base {
namespace {

void write_all(int descriptor, const char* bytes, std::size_t count) {
  while (count > 0) {
    const ssize_t written = ::write(descriptor, bytes, count);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    bytes += written;
    count -= static_cast<std::size_t>(written);
  }
}

ssize_t write_what_fits(void* descriptor, const char* bytes, std::size_t count) {
  static bool told = false;
  const int number = static_cast<int>(reinterpret_cast<std::intptr_t>(descriptor));
  errno = 0;
  write_all(number, bytes, count);
  if (errno != 0 && errno != EINTR && number == STDOUT_FILENO && !told) {
    told = true;
    constexpr char kBefore[] = "warning: standard output takes no more (", kAfter[] = "); going on without it\n";
    const char* const reason = std::strerror(errno);
    write_all(STDERR_FILENO, kBefore, sizeof kBefore - 1);
    write_all(STDERR_FILENO, reason, std::strlen(reason));
    write_all(STDERR_FILENO, kAfter, sizeof kAfter - 1);
  }
  return static_cast<ssize_t>(count);
}

std::FILE* stream_that_takes_all(int descriptor, int buffering) {
  cookie_io_functions_t functions{};
  functions.write = write_what_fits;
  std::FILE* const stream = ::fopencookie(reinterpret_cast<void*>(static_cast<std::intptr_t>(descriptor)), "w", functions);
  if (stream) std::setvbuf(stream, nullptr, buffering, BUFSIZ);
  return stream;
}

}  // namespace

void keep_output_from_failing() {
  std::signal(SIGPIPE, SIG_IGN);
  for (int taken = -1; (taken = ::open("/dev/null", O_RDWR)) >= 0;)  // or the first files opened would be what is printed to
    if (taken > STDERR_FILENO) {
      ::close(taken);
      break;
    }
  if (std::FILE* out = stream_that_takes_all(STDOUT_FILENO, ::isatty(STDOUT_FILENO) ? _IOLBF : _IOFBF)) stdout = out;
  if (std::FILE* error = stream_that_takes_all(STDERR_FILENO, _IONBF)) stderr = error;
}

}  // namespace tessera::base
