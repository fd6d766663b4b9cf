#include "launch/stop_signals.h"

#include <csignal>

namespace upcycle {
namespace {
volatile std::sig_atomic_t asked = 0;
extern "C" void ask_to_stop(int) { asked = 1; }
}  // namespace

void catch_stop_signals() {
  std::signal(SIGTERM, ask_to_stop);
  std::signal(SIGUSR1, ask_to_stop);
}

bool stop_asked() { return asked != 0; }

}  // namespace upcycle
