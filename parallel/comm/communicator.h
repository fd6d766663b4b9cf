#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "core/device.h"
#include "core/tensor.h"

namespace upcycle {

// A group of ranks plus a stream: a collective is issued like a kernel. Every rank of the group calls the same
// collectives in the same order. Each call checks its arguments, records itself for the watchdog and the trace, starts,
// and returns an Event; until that has been waited for (Stream::wait) its tensors belong to the transfer: none of them
// may be written, and its outputs may not be read. In a group of one every call is at most a copy, done when it
// returns. Calls of one communicator happen in the order they were issued, so one may use what an unwaited earlier one
// writes; those of different ones overlap. Calls that return a value, and barrier, block until done. All ranks must
// issue in the same order over all their communicators (transfer_queue.h). A wait past the time-out ends the job
// (stall_monitor.h).
//
// Reductions do not depend on the MPI library: bytes move by all-to-all, sums run here in rank order, in fp32 (fp64
// tensors in fp64). Transfers of more than 2^31 elements are split. On GPUs NCCL moves and adds: comm_nccl.h says what
// differs.
//
// Tensors are contiguous. Buffers overlap only where a call says so. Throws Error: for a wrong argument, before
// anything is sent; for a failed MPI call; and where a rank receives more than its counts say.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;  // within the group
  virtual int size() const = 0;
  virtual const std::string& name() const = 0;  // "tp", "dp", "ep", "edp", "world"

  // data (n), fp32, f64 or bf16 (summed in fp32, rounded once), replaced by the sum over ranks, bitwise equal on all.
  virtual Event all_reduce(const Tensor& data) = 0;
  // out (n / size) = this rank's part of the sum of in (n) over ranks; n divisible by size. out may alias its
  // part of in.
  virtual Event reduce_scatter(const Tensor& out, const Tensor& in) = 0;
  // out (n * size) = every rank's in (n), in rank order. in may alias its place in out.
  virtual Event all_gather(const Tensor& out, const Tensor& in) = 0;
  // Rows (the leading dimension): send_counts[r] rows of `in` go to rank r, in order; recv_counts[r] rows come from it.
  // Counts are on the host. Any may be zero. Both tensors may have more rows than their counts add up to (the excess is
  // not touched); rows have equal columns and type on both sides. At most 2^31 - 1 rows per rank and direction. In a
  // group of one `out` may be `in`.
  virtual Event all_to_all_v(const Tensor& out, std::span<const std::int64_t> recv_counts, const Tensor& in,
                             std::span<const std::int64_t> send_counts) = 0;
  virtual void barrier() = 0;

  // Host-side agreement, for errors, status and checkpoints (never inside a step's data path; these may allocate).
  virtual double max_of(double value) = 0;  // NaN if any rank's value is NaN
  virtual double sum_of(double value) = 0;  // fp64, rank order
  virtual std::string broadcast_text(const std::string& text, int root) = 0;
  virtual std::string gather_text(const std::string& text) = 0;  // all texts joined in rank order, on every rank
};

}  // namespace upcycle
