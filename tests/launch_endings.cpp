#include <omp.h>
#include <unistd.h>

#include <cstdio>

#include "core/check.h"
#include "core/error.h"
#include "launch/run_with_ranks.h"
#include "parallel/comm/agree.h"
#include "parallel/comm/mesh.h"

// How run_with_ranks ends a job: launch_endings MODE. Only the last rank ends it while the others wait in a barrier; a
// job that hangs is ended by the alarm, with a code that no mode expects. tests/cli runs it through run_local.sh.
using namespace upcycle;

int main(int argc, char** argv) {
  alarm(50);
  const std::string mode = argc == 2 ? argv[1] : "";
  return run_with_ranks([&](const MpiSession& session) {
    const auto device = make_cpu_device();
    const auto stream = device->make_stream();
    const Mesh mesh = make_mesh(session, make_layout(session.size(), 1, 1, 1), *stream);
    const bool last = session.rank() == session.size() - 1;
    if (mode == "agreed")
      agree_or_throw(*mesh.world, [&] {
        if (last) input_error("rank {} finds no file", session.rank());
      });
    if (mode == "alone" && last) input_error("only rank {} knows", session.rank());
    if (mode == "noisy" && !last)
      for (;; usleep(1000)) std::fprintf(stderr, "rank %d goes on\n", session.rank());
    if (mode == "noisy") usleep(200000);
    if ((mode == "error" || mode == "noisy") && last) UPCYCLE_CHECK(session.size() == 0, "a broken invariant");
    if (mode == "other" && last) throw std::runtime_error("neither of ours");
    mesh.world->barrier();
    std::printf("rank %d has %d threads\n", session.rank(), omp_get_max_threads());
    return mode == "result" ? 3 : 0;
  });
}
