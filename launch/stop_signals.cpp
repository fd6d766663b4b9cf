#include "launch/stop_signals.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <ctime>
#include <string_view>

#include "core/log.h"

namespace upcycle {
namespace {

// Handlers read and write these, and call nothing that is not async-signal-safe.
volatile std::sig_atomic_t asked = 0, second_ends = 0;
std::atomic<std::int64_t> asked_at{0};  // seconds of the monotonic clock, times 1000
std::atomic<std::int64_t> deadline{0};  // seconds after it
static_assert(std::atomic<std::int64_t>::is_always_lock_free);

std::int64_t milliseconds() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return std::int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1000000;
}

[[noreturn]] void end_at_once(std::string_view why) {
  if (log_rank() == 0)
    for (const std::string_view part :
         {std::string_view("upcycle: "), why,
          std::string_view(", ended without saving: the same command goes on from the newest "
                           "checkpoint, which is whole\n")})
      if (::write(STDERR_FILENO, part.data(), part.size()) < 0) break;
  ::_exit(kStoppedBySignal);
}

extern "C" void ask_to_stop(int number) {
  const int before = errno;
  const std::int64_t now = milliseconds();
  if (asked == 0) {
    asked_at = now;
    asked = 1;
    if (const std::int64_t seconds = deadline; seconds > 0) ::alarm(static_cast<unsigned>(seconds));
  } else if (second_ends != 0 && number == SIGTERM && now - asked_at >= 1000) {
    end_at_once("a second signal");
  }
  errno = before;
}
extern "C" void stop_late(int) { end_at_once("the save took longer than checkpoint.stop_deadline_s"); }
extern "C" void ask_once(int number) {
  asked = 1;
  std::signal(number, SIG_DFL);
}
}  // namespace

void catch_stop_signals() {
  std::signal(SIGTERM, ask_to_stop);
  std::signal(SIGUSR1, ask_to_stop);
}

void let_second_signal_end() { second_ends = 1; }

void set_stop_deadline(std::int64_t seconds) {
  if (seconds <= 0) return;
  std::signal(SIGALRM, stop_late);
  deadline = seconds;
  if (asked == 0) return;  // a signal that comes from here on starts it
  const std::int64_t passed = (milliseconds() - asked_at) / 1000;
  ::alarm(static_cast<unsigned>(std::max<std::int64_t>(1, seconds - passed)));
}

void catch_interrupt() {
  std::signal(SIGINT, ask_once);
  if (std::signal(SIGHUP, ask_once) == SIG_IGN) std::signal(SIGHUP, SIG_IGN);
}

bool stop_asked() { return asked != 0; }

}  // namespace upcycle
