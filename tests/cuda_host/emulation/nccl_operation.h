// What an NCCL call of the emulation does: MPI moves the bytes, this process adds.
#pragma once
#include <cuda_runtime.h>
#include <mpi.h>
#include <nccl.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/cuda_host/emulation/runtime_internal.h"

struct NcclOperation;

// One MPI communicator for each purpose: what is queued in a stream here may be done already on another rank.
struct ncclComm {
  MPI_Comm collective = MPI_COMM_NULL, point_to_point = MPI_COMM_NULL, management = MPI_COMM_NULL;
  int rank = 0, size = 0;
  // Sums begin with this rank: the world's number of the group's first, so that groups of as many ranks add in
  // different orders, as rings and trees of a real machine do (NVIDIA/nccl issue 2091).
  int adds_from = 0;
  bool blocking = true;
  unsigned connected = 0;  // one bit per kind of collective
  std::string name = "?";

  // A call of a non-blocking communicator takes this many polls of its state before it is done: only then are its
  // operations in their streams.
  int looks = 0;
  std::vector<std::pair<cudaStream_t, std::unique_ptr<NcclOperation>>> held;

  std::atomic<ncclResult_t> error{ncclSuccess};
  std::atomic<bool> aborted{false};
  bool finalized = false;
  int operations = 0;  // in streams
};

enum class NcclKind { AllReduce, ReduceScatter, AllGather, Send, Recv };

struct NcclCall {
  NcclKind kind{};
  const char* from = nullptr;
  char* to = nullptr;
  std::size_t count = 0;
  ncclDataType_t type{};
  ncclRedOp_t op{};
  int peer = 0;

  std::size_t bytes() const;
  bool collective() const { return kind <= NcclKind::AllGather; }

  // In flight.
  std::vector<char> sent, received, headers;
  MPI_Request request = MPI_REQUEST_NULL;
};

// The calls of one group in one stream. Stream-ordered; looks at MPI, never blocks.
struct NcclOperation final : emul::Op_ {
  explicit NcclOperation(ncclComm& comm_) : comm(comm_) { ++comm.operations; }
  ~NcclOperation() override { --comm.operations; }
  bool step() override;

  ncclComm& comm;
  std::vector<NcclCall> calls;

 private:
  enum class Phase { Waits, Announced, Moves };
  void announce(NcclCall& call) const;  // all ranks say what they issued, before anything moves
  void move(NcclCall& call) const;
  bool arrived(NcclCall& call) const;
  void check_headers(const NcclCall& call) const;
  void store(NcclCall& call) const;

  Phase phase_ = Phase::Waits;
  int pause_ = -1;  // steps until the next phase
  std::chrono::steady_clock::time_point since_;
};

namespace emul {

// 0 .. most, by the seed and this process's rank: how long things take.
int nccl_delay(int most);
[[noreturn]] void nccl_die(const std::string& what);

// For tests: the next operation of any communicator that starts here never ends, and its communicator has this error,
// as when a cable is pulled.
void fail_next_nccl_operation(ncclResult_t error);

}  // namespace emul
