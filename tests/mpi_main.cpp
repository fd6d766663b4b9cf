#include "tests/mpi_tests.h"

#include <gtest/gtest.h>
#include <mpi.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

namespace upcycle::test {
namespace {

const MpiSession* current_session = nullptr;
Communicator* current_host_world = nullptr;

// Long enough for a slow test on a busy machine; a rank that waits for one that left the test never ends by itself.
constexpr unsigned kSecondsPerTest = 120;
constexpr int kHangExitCode = 99;

// Only calls that a signal handler may make: the launcher ends the other ranks.
extern "C" void on_alarm(int) {
  constexpr char text[] = "watchdog: a test hangs (or a rank left it early); this rank ends the job\n";
  if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0) _exit(kHangExitCode);
  _exit(kHangExitCode);
}

// Ranks fail together: after each test all learn whether any failed, so that every exit code agrees and no rank enters
// the next test's collectives without the others.
class RanksTogether : public testing::EmptyTestEventListener {
  void OnTestStart(const testing::TestInfo&) override { alarm(kSecondsPerTest); }

  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed() || mpi_session().rank() == 0) return;  // rank 0 has gtest's printer
    std::fprintf(stderr, "rank %d: %s:%d: %s\n", mpi_session().rank(),
                 result.file_name() == nullptr ? "?" : result.file_name(), result.line_number(), result.message());
  }

  void OnTestEnd(const testing::TestInfo& test) override {
    int failed = test.result()->Failed() ? 1 : 0, any = 0;
    if (MPI_Allreduce(&failed, &any, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD) != MPI_SUCCESS) abort_all(1);
    alarm(0);
    if (any != 0) any_failed = true;
    if (any != 0 && failed == 0 && mpi_session().rank() == 0) {
      std::printf("another rank failed %s.%s\n", test.test_suite_name(), test.name());
    }
  }

 public:
  bool any_failed = false;
};

int run(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  MpiSession session(&argc, &argv);
  current_session = &session;
  const Mesh host = make_test_mesh();
  current_host_world = host.world.get();
  if (signal(SIGALRM, on_alarm) == SIG_ERR) return 1;
  testing::TestEventListeners& listeners = testing::UnitTest::GetInstance()->listeners();
  if (session.rank() != 0) delete listeners.Release(listeners.default_result_printer());
  auto* together = new RanksTogether;
  listeners.Append(together);  // gtest owns it
  const int code = RUN_ALL_TESTS();
  if (testing::UnitTest::GetInstance()->test_to_run_count() == 0) return 1;
  alarm(kSecondsPerTest);  // ending waits for all ranks too
  return code != 0 || together->any_failed ? 1 : 0;
}

}  // namespace

const MpiSession& mpi_session() { return *current_session; }
Communicator& host_world() { return *current_host_world; }

Stream& test_stream() {
  static const std::unique_ptr<Device> device = make_cpu_device();
  static const std::unique_ptr<Stream> stream = device->make_stream();
  return *stream;
}

Mesh make_test_mesh(int tp, int ep, int etp) {
  return make_mesh(mpi_session(), make_layout(mpi_session().size(), tp, ep, etp), test_stream());
}

Mesh make_test_mesh(Device& device, Stream& stream, int tp, int ep, int etp) {
  return make_mesh_for(mpi_session(), make_layout(mpi_session().size(), tp, ep, etp), device, stream);
}

}  // namespace upcycle::test

int main(int argc, char** argv) { return upcycle::test::run(argc, argv); }
