#pragma once
#include "core/device.h"
#include "parallel/comm/mesh.h"
#include "parallel/comm/mpi_session.h"

namespace upcycle {

// All communicators of one rank over NCCL, for tensors on its GPU: made in the same order on all ranks (a collective
// call). `compute` is the stream that its ops run on. The layout's world is the session's size. The mesh must be
// destroyed before the stream, the device and the session. A group of one needs no NCCL and gets the single-rank
// communicator.
//
// A group's NCCL communicator, which takes memory on the GPU, is made by its first call with tensors: a run has those
// of the groups that it uses. Groups of the same ranks (dp and ep where tp = 1) have one each: the calls of one NCCL
// communicator run one after the other, and a dispatch would queue behind the gradient sums that should overlap with
// it.
//
// Every group has a communication stream of its own. A call starts there when what `compute` had been given before it
// is done, and its Event is a point of that stream: so transfers overlap with the ops between a call and its wait
// (Stream::wait). The host blocks only where NCCL connects the ranks: in the group's first call of a kind and size.
// Calls that return a value to the host, and barrier, go through MPI; they are counted separately.
//
// What communicator.h promises of reductions is the CPU backend's. Here NCCL adds: in an order of its own, the same for
// the same ranks on the same machines; and a bf16 sum is rounded to bf16 wherever partial sums travel on, not once.
// Callers must make sure that send and receive counts match: NCCL does not check them.
//
// A failed transfer, or one that waits for other ranks past the time-out, ends the job while the host waits for
// anything on `compute` (or for one of these Events), with the summary of who waits where (stall_monitor.h).
Mesh make_nccl_mesh(const MpiSession& session, const Layout& layout, Device& device, Stream& compute);

}  // namespace upcycle
