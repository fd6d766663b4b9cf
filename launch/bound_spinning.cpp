#include "launch/bound_spinning.h"

#include <unistd.h>

#include <cstdlib>
#include <initializer_list>

namespace upcycle {

void bound_spinning(char** argv) {
  constexpr const char* kSpins = "3000";  // spins of 10 to 50 ns each
  for (const char* name : {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"})
    if (const char* given = std::getenv(name); given != nullptr && *given != '\0') return;
  // If it can not exec itself (no /proc), it just continues: only slower beside other programs.
  if (setenv("GOMP_SPINCOUNT", kSpins, 1) == 0) execv("/proc/self/exe", argv);
}

}  // namespace upcycle
