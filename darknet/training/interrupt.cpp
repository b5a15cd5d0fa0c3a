#include "darknet/training/interrupt.hpp"

#include <csignal>

namespace tessera::darknet {
namespace {

// A signal handler can reach nothing but a global.
volatile std::sig_atomic_t signals_received = 0;

constexpr int kSignals[] = {SIGINT, SIGTERM, SIGHUP};

// What is ignored stays so: nohup ignores SIGHUP, shells SIGINT in the background.
void answer_with(void (*handler)(int)) {
  for (const int signal : kSignals)
    if (std::signal(signal, handler) == SIG_IGN) std::signal(signal, SIG_IGN);
}

void note_signal(int) {
  signals_received = signals_received + 1;
  answer_with(SIG_DFL);
}

}  // namespace

InterruptGuard::InterruptGuard() {
  signals_received = 0;
  answer_with(note_signal);
}

InterruptGuard::~InterruptGuard() { answer_with(SIG_DFL); }

bool InterruptGuard::interrupted() { return signals_received != 0; }

}  // namespace tessera::darknet
