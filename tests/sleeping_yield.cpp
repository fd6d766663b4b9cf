// Preloaded by tests with more ranks than cores: who gives its core away while it waits sleeps for a moment, and does
// not come back as often as the scheduler can. Beside others that compute, a step then takes milliseconds in place of
// seconds.
#include <ctime>

extern "C" int sched_yield() {
  const timespec moment{0, 30000};
  ::nanosleep(&moment, nullptr);
  return 0;
}
