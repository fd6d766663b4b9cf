#include <mpi.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <future>
#include <string_view>
#include <vector>

#include "core/abort.h"
#include "core/error.h"
#include "core/progress.h"
#include "parallel/comm/agree.h"
#include "parallel/comm/mesh.h"
#include "parallel/comm/mpi_session.h"
#include "parallel/comm/stall_monitor.h"

// How a job ends: each mode ends one way while other ranks wait, and ctest (mpi_tests.cmake) checks the exit code. A
// job that hangs is ended by the alarm, with a code that no mode expects.
using namespace upcycle;

namespace {

const char* mode = "";

[[noreturn]] void never_return() {
  for (;;) pause();
}

// A library call that never returns, in the middle of a transfer.
class Stuck final : public Progress {
 public:
  void poll() override { never_return(); }
  void finish(std::uint64_t) override {}
};

// A rank's main thread working on files: signs of progress for that long, from this thread or another (as of an I/O
// thread).
void work(double seconds, bool on_a_thread) {
  const auto signs = [seconds] {
    for (double t = 0; t < seconds; t += 0.3) {
      usleep(300000);
      made_progress();
    }
  };
  if (!on_a_thread) return signs();
  auto done = std::async(std::launch::async, signs);
  while (done.wait_for(std::chrono::milliseconds(20)) != std::future_status::ready) forward_progress();
}

// The time-out is 1 s; what is at work takes longer.
void wait_for_work(const MpiSession& session, const Mesh& mesh) {
  const int rank = session.rank(), last = session.size() - 1;
  mesh.world->barrier();
  session.set_timeout(1);
  const std::string_view m = mode;
  if ((m == "works" && rank == last) || (m == "works_first" && rank == 0) || (m == "works_middle" && rank == 1))
    return work(3.5, m == "works_middle");
  if (m == "works_ends" && (rank == 0 || rank == last)) return work(3.5, false);
  if (m == "falls_silent" && rank == last) work(2, false), never_return();
  if (m == "works_beside_lost" && rank == 0) work(50, false);
  if (m == "works_beside_lost" && rank == 1) never_return();
}

// Ranks that wait for each other too long. The time-out is set only when all have started.
void wait_too_long(const MpiSession& session, const Mesh& mesh, Stream& stream) {
  const int rank = session.rank(), last = session.size() - 1;
  mesh.world->barrier();
  session.set_timeout(2);
  const std::string_view m = mode;
  if (m == "report_file") {
    if (rank == 0) std::filesystem::create_directory(mode);
    session.stalls().set_report_folder(mode);
  }
  if ((m == "late_last" && rank == last) || (m == "late_first" && rank == 0) || (m == "late_middle" && rank == 1) ||
      (m == "report_last" && rank == last) || (m == "report_first" && rank == 0) || (m == "report_file" && rank == 1) ||
      (m == "late_ends" && (rank == 0 || rank == last)) || (m == "abort_hangs" && rank == last))
    never_return();
  if (m == "stopped" && rank == 1) {
    std::printf("process %d stops\n", getpid());
    std::fflush(stdout);
    raise(SIGSTOP);
  }
  if (m == "suspended") {
    const pid_t first = std::stoi(mesh.world->broadcast_text(std::to_string(getpid()), 0));
    if (rank != last) return;
    usleep(300000);  // the first rank waits by now
    kill(first, SIGSTOP);
    sleep(4);
    kill(first, SIGCONT);
  }
  if (m == "differ" && rank == last) mesh.dp->barrier();
  if (m == "inside") {
    Stuck stuck;
    stream.attach(stuck);
    if (rank == 0) mesh.dp->barrier();  // not every rank: this one can not get through it by itself
    never_return();
  }
}

int run(int argc, char** argv) {
  MpiSession session(&argc, &argv);
  const auto device = make_cpu_device();
  const auto stream = device->make_stream();
  const Mesh mesh = make_mesh(session, make_layout(session.size(), 1, 1, 1), *stream);
  const bool last = session.rank() == session.size() - 1;
  if (std::strcmp(mode, "agreed") == 0) {
    // What every rank knows: one line, exit code 2 everywhere, MPI finalized.
    try {
      agree_or_throw(*mesh.world, [&] {
        if (last) input_error("rank {} finds no file", session.rank());
      });
    } catch (const AgreedError& e) {
      if (session.rank() == 0) std::printf("%s\n", e.what());
      return 2;
    }
  } else if (std::strcmp(mode, "abort") == 0) {
    if (last) {
      std::printf("rank %d aborts\n", session.rank());  // buffered: abort_all must flush it
      abort_all(7);
    }
  } else if (std::strcmp(mode, "abort_job") == 0) {
    if (last) abort_job("a broken invariant");
  } else if (std::strcmp(mode, "mismatch") == 0) {
    // Rank 0 sends more rows than rank 1 expects: MPI truncates the message, and its error code becomes an Error there.
    std::vector<float> from(50), to(50);
    std::vector<std::int64_t> send(static_cast<std::size_t>(session.size())), receive = send;
    if (session.rank() == 0) send[1] = 5;
    if (session.rank() == 1) receive[0] = 3;
    mesh.world->all_to_all_v(Tensor(to.data(), DType::F32, {5, 10}), receive, Tensor(from.data(), DType::F32, {5, 10}),
                             send);
  } else if (std::strcmp(mode, "unwind") == 0) {
    if (last) throw Error("passes through the session");
  } else if (std::strcmp(mode, "finish") != 0) {
    if (std::strstr(mode, "works") != nullptr || std::strcmp(mode, "falls_silent") == 0)
      wait_for_work(session, mesh);
    else
      wait_too_long(session, mesh, *stream);
  }
  mesh.world->barrier();
  // If a single rank has ended, the others can not get past this.
  const bool all_come = std::strcmp(mode, "finish") == 0 || std::strcmp(mode, "suspended") == 0 ||
                        (std::strncmp(mode, "works", 5) == 0 && std::strcmp(mode, "works_beside_lost") != 0);
  if (!all_come) return 98;
  if (last) std::printf("all %d came\n", session.size());
  return 0;
}

}  // namespace

// Overrides the library's.
extern "C" int MPI_Abort(MPI_Comm comm, int code) {
  if (std::strcmp(mode, "abort_hangs") == 0) never_return();
  return PMPI_Abort(comm, code);
}

int main(int argc, char** argv) {
  alarm(50);
  if (argc != 2) return 97;
  mode = argv[1];
  try {
    return run(argc, argv);
  } catch (const InputError& e) {
    std::printf("%s\n", e.what());
    return 2;
  } catch (const Error& e) {
    std::printf("%s\n", e.what());
    return 5;
  }
}
