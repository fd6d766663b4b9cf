#include "parallel/comm/mpi_session.h"

#include <mpi.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "core/abort.h"
#include "core/check.h"
#include "core/error.h"
#include "core/flight_record.h"
#include "core/log.h"
#include "parallel/comm/agree.h"
#include "parallel/comm/mpi_error.h"
#include "parallel/comm/stall_monitor.h"
#include "parallel/comm/threads_per_rank.h"

namespace upcycle {

namespace {

// Whether mpirun or srun started this rank, even a single one: they watch how it ends. Call it before MPI starts, which
// sets some of these variables itself.
bool has_launcher() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"})
    if (std::getenv(name) != nullptr) return true;
  return false;
}
std::atomic<bool> on_its_own{false};  // no launcher, no other rank

long slurm_tasks() {
  const char* tasks = std::getenv("SLURM_NTASKS");
  return tasks == nullptr ? 0 : std::atol(tasks);
}
// Each of them finds it by itself, and can not ask the others.
[[noreturn]] void refuse_separate_programs() {
  throw AgreedError(
      fmt::format("SLURM_NTASKS={} but MPI has 1 rank: srun started {} separate programs. Start with `srun "
                  "--mpi=pmix` or with mpirun; for one rank on purpose set SLURM_NTASKS=1",
                  slurm_tasks(), slurm_tasks()));
}

}  // namespace

MpiSession::MpiSession(int* argc, char*** argv) : exceptions_at_start_(std::uncaught_exceptions()) {
  int started = 0;
  UPCYCLE_MPI(MPI_Initialized(&started));
  UPCYCLE_CHECK(started == 0, "MPI runs already: one session a process");
  const bool launched = has_launcher();
  // Open MPI would start a daemon for a rank by itself, which takes 0.2 s and serves only to spawn others; and look for
  // fast networks, which takes as long. And ranks by themselves share a folder in /tmp, which they do not need: one
  // that ends removes it while another, that starts, makes its own in it and fails.
  if (!launched) {
    if (slurm_tasks() > 1) refuse_separate_programs();
    unsetenv("SLURM_STEP_ID");  // Open MPI would insist on the launcher of a task that srun started without PMIx
    setenv("OMPI_MCA_orte_create_session_dirs", "0", 0);
    setenv("OMPI_MCA_ess_singleton_isolated", "1", 0);
    setenv("OMPI_MCA_pml", "ob1", 0);
  }
  int provided = MPI_THREAD_SINGLE;
  UPCYCLE_MPI(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided));
  UPCYCLE_CHECK(provided >= MPI_THREAD_FUNNELED, "this MPI gives thread level {}, MPI_THREAD_FUNNELED is {}", provided,
                MPI_THREAD_FUNNELED);
  UPCYCLE_MPI(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
  UPCYCLE_MPI(MPI_Comm_rank(MPI_COMM_WORLD, &rank_));
  UPCYCLE_MPI(MPI_Comm_size(MPI_COMM_WORLD, &size_));
  char name[HOST_NAME_MAX + 1] = "";
  UPCYCLE_CHECK(gethostname(name, sizeof(name) - 1) == 0, "this machine's name can not be read");
  host_ = name;
  on_its_own = !launched && size_ == 1;
  set_error_origin(rank_, host_);
  set_log_rank(rank_);
  set_abort_hook(&abort_all);

  if (size_ == 1 && slurm_tasks() > 1) {
    UPCYCLE_MPI(MPI_Finalize());  // the destructor does not run when the constructor throws
    refuse_separate_programs();
  }
  stalls_ = std::make_unique<StallMonitor>();
  count_threads();
}

void MpiSession::count_threads() {
  MPI_Comm machine = MPI_COMM_NULL;
  UPCYCLE_MPI(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &machine));
  UPCYCLE_MPI(MPI_Comm_rank(machine, &local_rank_));
  UPCYCLE_MPI(MPI_Comm_size(machine, &ranks_on_host_));
  first_on_host_ = rank_;
  UPCYCLE_MPI(MPI_Bcast(&first_on_host_, 1, MPI_INT, 0, machine));
  const CoreMask mask = own_cores();
  std::vector<CoreMask> masks(static_cast<std::size_t>(ranks_on_host_));
  UPCYCLE_MPI(MPI_Allgather(&mask, sizeof(mask), MPI_BYTE, masks.data(), sizeof(mask), MPI_BYTE, machine));
  UPCYCLE_MPI(MPI_Comm_free(&machine));
  threads_ = threads_of(masks, static_cast<std::size_t>(local_rank_));
}

void MpiSession::set_timeout(double seconds) const { stalls_->set_timeout(seconds); }

MpiSession::~MpiSession() {
  if (std::uncaught_exceptions() > exceptions_at_start_) return;
  const InPhase phase(Phase::Ending);
  const StallMonitor::Inside inside(*stalls_, "MPI_Finalize");
  const int code = MPI_Finalize();
  if (code != MPI_SUCCESS) std::fprintf(stderr, "rank %d on %s: MPI_Finalize failed: %d\n", rank_, host_.c_str(), code);
}

namespace {

constexpr unsigned kAbortSeconds = 10;  // for MPI_Abort to end this process
std::atomic<int> abort_code{1};
std::atomic<void (*)()> abort_cleanup{nullptr};
extern "C" void abort_hangs(int) { _exit(abort_code); }

}  // namespace

void set_abort_cleanup(void (*cleanup)()) { abort_cleanup = cleanup; }

void abort_all(int code) {
  std::fflush(nullptr);  // MPI_Abort ends the process without it
  abort_code = code;
  if (std::signal(SIGALRM, &abort_hangs) != SIG_ERR) alarm(kAbortSeconds);
  if (void (*cleanup)() = abort_cleanup.exchange(nullptr)) cleanup();
  int started = 0, ended = 0;
  if (MPI_Initialized(&started) == MPI_SUCCESS && MPI_Finalized(&ended) == MPI_SUCCESS && started != 0 && ended == 0) {
    // Open MPI prints a page about an abort. Where no other rank has to be ended, only our line appears.
    if (on_its_own)
      (void)MPI_Finalize();
    else
      MPI_Abort(MPI_COMM_WORLD, code);
  }
  std::_Exit(code);
}

}  // namespace upcycle
