#pragma once
#include <memory>
#include <string>

namespace upcycle {

class StallMonitor;

// Starts and ends MPI (MPI_THREAD_FUNNELED). Without mpirun or srun it is one rank. Throws AgreedError at an MPI size
// of 1 where SLURM_NTASKS says more: srun without PMIx would run singletons. Names this rank in later errors and
// warnings, and makes abort_job end the whole job.
//
// Ending: MPI_Finalize waits for all ranks, so the destructor calls it only where no exception passes through it. With
// one in flight it leaves MPI as it is and does not wait; the launcher ends the other ranks when this process exits
// without finalizing. A program that wants its exit code kept catches inside the session's life: what all ranks agreed
// on (AgreedError, agree.h) returns from main with 2 on every rank, anything else calls abort_all.
class MpiSession {
 public:
  MpiSession(int* argc, char*** argv);
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  int rank() const { return rank_; }
  int size() const { return size_; }
  const std::string& host() const { return host_; }
  int ranks_on_host() const { return ranks_on_host_; }
  int local_rank() const { return local_rank_; }  // among those, in the world's order: the index of this rank's GPU
  int first_on_host() const { return first_on_host_; }  // the first of them: tells hosts apart, whatever their names
  int threads() const { return threads_; }  // this rank's part of the cores that it may use (threads_per_rank.h)

  // Seconds that a rank waits for others before the run ends (config parallel.timeout_s); 600 until it is set.
  void set_timeout(double seconds) const;
  StallMonitor& stalls() const { return *stalls_; }

 private:
  void count_threads();

  int rank_ = 0, size_ = 1, ranks_on_host_ = 1, local_rank_ = 0, first_on_host_ = 0, threads_ = 1;
  int exceptions_at_start_ = 0;
  std::string host_;
  std::unique_ptr<StallMonitor> stalls_;
};

// Ends all ranks of the job with this exit code (MPI_Abort), or this process where MPI does not run. Standard output is
// flushed first; no destructor runs.
[[noreturn]] void abort_all(int code);

// Sets what abort_all calls first; it has a few seconds.
void set_abort_cleanup(void (*cleanup)());

}  // namespace upcycle
