#include "darknet/training/interrupt.hpp"

#include <csignal>

namespace tessera::darknet {
namespace {

// A signal handler can reach nothing but a global.
volatile std::sig_atomic_t signals_received = 0;

void note_signal(int signal) {
  signals_received = signals_received + 1;
  std::signal(signal, SIG_DFL);
}

}  // namespace

InterruptGuard::InterruptGuard() {
  signals_received = 0;
  std::signal(SIGINT, note_signal);
  std::signal(SIGTERM, note_signal);
}

InterruptGuard::~InterruptGuard() {
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
}

bool InterruptGuard::interrupted() { return signals_received != 0; }

}  // namespace tessera::darknet
