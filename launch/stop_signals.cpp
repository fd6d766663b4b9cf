#include "launch/stop_signals.h"

#include <csignal>

namespace upcycle {
namespace {
volatile std::sig_atomic_t asked = 0;
extern "C" void ask_to_stop(int) { asked = 1; }
extern "C" void ask_once(int number) {
  asked = 1;
  std::signal(number, SIG_DFL);
}
}  // namespace

void catch_stop_signals() {
  std::signal(SIGTERM, ask_to_stop);
  std::signal(SIGUSR1, ask_to_stop);
}

void catch_interrupt() {
  std::signal(SIGINT, ask_once);
  if (std::signal(SIGHUP, ask_once) == SIG_IGN) std::signal(SIGHUP, SIG_IGN);
}

bool stop_asked() { return asked != 0; }

}  // namespace upcycle
