#pragma once
#include <memory>
#include <string>

#include "parallel/comm/communicator.h"

namespace upcycle {

// The layout of ranks. Dense parameters: world = tp * dp, tp ranks adjacent (rank = dp_rank * tp + tp_rank).
// Experts: world = etp * ep * edp, etp ranks adjacent, then ep (rank = (edp_rank * ep + ep_rank) * etp + etp_rank).
struct Layout {
  int world = 1, tp = 1, dp = 1, ep = 1, etp = 1, edp = 1;
};

// Fills dp and edp in; throws InputError naming the fields and the nearest layouts that work.
// etp is 1 (an expert whole on one rank) or tp.
Layout make_layout(int world, int tp, int ep, int etp);

// A rank's place in each group.
struct Coordinates {
  int tp = 0, dp = 0, ep = 0, etp = 0, edp = 0;
};
Coordinates coordinates_of(const Layout& layout, int rank);

// All communicators of one rank, created eagerly.
struct Mesh {
  Layout layout;
  int rank = 0;
  Coordinates at;
  std::shared_ptr<Communicator> world, tp, dp, ep, etp, edp;
};

// Starts and ends MPI (MPI_THREAD_FUNNELED). Without mpirun or srun it is one rank. Refuses an MPI size of 1 where
// SLURM_NTASKS says more: srun without PMIx would run singletons.
class MpiSession {
 public:
  MpiSession(int* argc, char*** argv);
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  int rank() const { return rank_; }
  int size() const { return size_; }
  const std::string& host() const { return host_; }

 private:
  int rank_ = 0, size_ = 1;
  std::string host_;
};

Mesh make_mesh(const MpiSession& session, const Layout& layout, Stream& stream);

// One rank without MPI: for tests, tools and `plan`.
Mesh make_single_mesh();

}  // namespace upcycle
