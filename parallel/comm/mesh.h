#pragma once
#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "parallel/comm/communicator.h"

namespace upcycle {

class HostGroup;
class StallMonitor;

// The layout of ranks. Dense parameters: world = tp * dp, tp ranks adjacent (rank = dp_rank * tp + tp_rank).
// Experts: world = etp * ep * edp, etp ranks adjacent, then ep (rank = (edp_rank * ep + ep_rank) * etp + etp_rank).
struct Layout {
  int world = 1, tp = 1, dp = 1, ep = 1, etp = 1, edp = 1;
};

// Fills dp and edp in; throws InputError naming the fields and the nearest layouts that work.
// etp is 1 (an expert whole on one rank) or tp.
Layout make_layout(int world, int tp, int ep, int etp);

// What make_layout would refuse (world is at least 1), "" where nothing is wrong; and up to three layouts near the one
// asked for, of those that `works` accepts (all where it is empty): "tp=2 ep=4 etp=1, ...".
std::string layout_problem(int world, std::int64_t tp, std::int64_t ep, std::int64_t etp);
std::string nearest_layouts(int world, std::int64_t tp, std::int64_t ep, std::int64_t etp,
                            const std::function<bool(const Layout&)>& works = {});

// A rank's place in each group.
struct Coordinates {
  int tp = 0, dp = 0, ep = 0, etp = 0, edp = 0;
};
Coordinates coordinates_of(const Layout& layout, int rank);

// Bytes of host scratch that the CPU communicators of one rank hold for reductions (resident once used).
std::size_t collective_scratch_bytes(const Layout& layout);

// All groups of one rank, made at the start. Experts cut over etp = tp are cut over the ranks of tp, whose group serves
// both.
struct Mesh {
  Layout layout;
  int rank = 0;
  Coordinates at;
  std::shared_ptr<Communicator> world, tp, dp, ep, edp;
  std::shared_ptr<HostGroup> host = nullptr;  // null: one rank by itself, or ranks of which not all are in the mesh
};

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

// What abort_all does first, in the few seconds that it gives itself.
void set_abort_cleanup(void (*cleanup)());

// All communicators, made in one order on all ranks (a collective call). The layout's world must be the session's size.
// `stream` is a CPU stream. A group of one needs no MPI and gets the single-rank communicator. The mesh ends before the
// session does.
Mesh make_mesh(const MpiSession& session, const Layout& layout, Stream& stream);

// All ranks before their layout is known: what they agree on about it. A collective call; ends before the session does.
std::shared_ptr<Communicator> make_start_group(const MpiSession& session, Stream& stream);

// One rank without MPI: for tests, tools and `plan`. Its tensors lie in host memory, or on a device.
Mesh make_single_mesh();
Mesh make_single_mesh(Device& device, Stream& stream);

}  // namespace upcycle
