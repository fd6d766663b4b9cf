#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "core/flight_record.h"

// Part of the program in tests that stop or delay ranks at a place: upcycle_hooked.
//   UPCYCLE_TEST_STOP=RANK:PHASE            the rank stops (SIGSTOP) when it enters the phase, after the first step. It
//                                           says when it does, in seconds since 1970
//   UPCYCLE_TEST_DELAY=RANK:PHASE:MS,...    it sleeps so long whenever it enters the phase; rank -1: every rank
namespace {

using namespace upcycle;

struct At {
  int rank = -1, ms = 0;
  char phase[32] = "";
};

std::vector<At> read(const char* variable) {
  std::vector<At> all;
  const char* const text = std::getenv(variable);
  std::istringstream parts(text == nullptr ? "" : text);
  for (std::string part; std::getline(parts, part, ',');) {
    At& at = all.emplace_back();
    if (std::sscanf(part.c_str(), "%d:%31[^:]:%d", &at.rank, at.phase, &at.ms) >= 2) continue;
    std::fprintf(stderr, "place_hooks: %s=%s: expected RANK:PHASE\n", variable, text);
    std::exit(97);
  }
  return all;
}

int own_rank() {
  const char* const text = std::getenv("OMPI_COMM_WORLD_RANK");
  return text == nullptr ? 0 : std::atoi(text);
}

void enter(const Place& p) {
  static const std::vector<At> stops = read("UPCYCLE_TEST_STOP"), delays = read("UPCYCLE_TEST_DELAY");
  static const int rank = own_rank();
  if (p.layer >= 0) return;
  const std::string_view phase = name_of(p.phase);
  for (const At& d : delays)
    if ((d.rank == -1 || d.rank == rank) && phase == d.phase) usleep(static_cast<useconds_t>(d.ms) * 1000);
  for (const At& s : stops)
    if (s.rank == rank && phase == s.phase && (p.step >= 2 || p.phase == Phase::Loading)) {
      timespec now{};
      clock_gettime(CLOCK_REALTIME, &now);
      std::fprintf(stderr, "place_hooks: rank %d stops at %lld.%03ld\n", rank, static_cast<long long>(now.tv_sec),
                   now.tv_nsec / 1000000);
      raise(SIGSTOP);
    }
}

const bool hooked = [] {
  set_place_hook(&enter);
  return true;
}();

}  // namespace
