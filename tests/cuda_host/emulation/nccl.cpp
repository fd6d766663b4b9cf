// NCCL for tests: one emulated GPU per process, over MPI. Non-blocking communicators take their time, and what is
// called too early is refused; buffers must be device memory; all ranks must issue the same calls.
#include <nccl.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include "tests/cuda_host/emulation/nccl_operation.h"

namespace {

std::string last_error = "no error";
int group_depth = 0;
ncclComm* group_comm = nullptr;
std::vector<std::pair<cudaStream_t, NcclCall>> group_calls;

ncclResult_t refuse(ncclResult_t code, const std::string& what) {
  last_error = what;
  if (!emul::options().quiet) std::fprintf(stderr, "emulated NCCL: %s\n", what.c_str());
  return code;
}

ncclResult_t check_usable(const ncclComm* comm) {
  if (comm == nullptr) return refuse(ncclInvalidArgument, "no communicator");
  if (comm->aborted || comm->finalized) return refuse(ncclInvalidUsage, comm->name + ": it has ended");
  if (comm->looks > 0)
    return refuse(ncclInvalidUsage, comm->name + ": its last call is in progress, look with ncclCommGetAsyncError");
  return ncclSuccess;
}

// After a call of a communicator: done at once, or after some looks at its state.
ncclResult_t proceed(ncclComm& comm) {
  comm.looks = comm.blocking ? 0 : emul::nccl_delay(3);
  return comm.looks > 0 ? ncclInProgress : ncclSuccess;
}

ncclResult_t enqueue_held(ncclComm& comm) {
  for (auto& [stream, operation] : comm.held) emul::enqueue(stream, std::move(operation));
  comm.held.clear();
  return emul::sticky() == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
}

// In its first collective of a kind a blocking communicator connects its ranks: the host blocks in it until all have
// arrived.
void connect(ncclComm& comm, NcclKind kind) {
  const unsigned bit = 1u << static_cast<unsigned>(kind);
  if (!comm.blocking || (comm.connected & bit) != 0) return;
  comm.connected |= bit;
  MPI_Request all_came = MPI_REQUEST_NULL;
  MPI_Ibarrier(comm.management, &all_came);
  for (int came = 0; came == 0; emul::pump_once()) MPI_Test(&all_came, &came, MPI_STATUS_IGNORE);
}

// The calls since ncclGroupStart become an operation for each stream, in the order of their first call.
ncclResult_t end_group() {
  if (group_calls.empty()) return ncclSuccess;
  ncclComm& comm = *group_comm;
  ++emul::counters().nccl_launches;
  if (!comm.blocking) ++emul::counters().nccl_threads;
  for (auto& [stream, call] : group_calls) {
    auto found = std::find_if(comm.held.begin(), comm.held.end(), [s = stream](const auto& h) { return h.first == s; });
    if (found == comm.held.end()) {
      comm.held.emplace_back(stream, std::make_unique<NcclOperation>(comm));
      found = comm.held.end() - 1;
    }
    found->second->calls.push_back(std::move(call));
  }
  group_calls.clear();
  group_comm = nullptr;
  const ncclResult_t result = proceed(comm);
  return result == ncclInProgress ? result : enqueue_held(comm);
}

bool on_device(const void* p, std::size_t bytes) {
  return bytes == 0 || emul::classify(p, bytes) == emul::Where::device;
}

ncclResult_t issue(NcclKind kind, ncclComm* comm, const void* from, void* to, std::size_t count, ncclDataType_t type,
                   ncclRedOp_t op, int peer, cudaStream_t stream) {
  if (const ncclResult_t bad = check_usable(comm); bad != ncclSuccess) return bad;
  NcclCall call;
  call.kind = kind;
  call.from = static_cast<const char*>(from);
  call.to = static_cast<char*>(to);
  call.count = count;
  call.type = type;
  call.op = op;
  call.peer = peer;
  const std::size_t n = call.bytes(), ranks = static_cast<std::size_t>(comm->size);
  const bool reads = kind != NcclKind::Recv;
  if (reads && !on_device(from, kind == NcclKind::ReduceScatter ? n * ranks : n))
    return refuse(ncclInvalidArgument, comm->name + ": what is sent is not inside one live device allocation");
  if (kind != NcclKind::Send && !on_device(to, kind == NcclKind::AllGather ? n * ranks : n))
    return refuse(ncclInvalidArgument, comm->name + ": what receives is not inside one live device allocation");
  if (peer < 0 || peer >= comm->size) return refuse(ncclInvalidArgument, comm->name + ": no such rank");
  if (group_comm != nullptr && group_comm != comm)
    return refuse(ncclInvalidUsage, "calls of two communicators in one group are not emulated");
  if (call.collective()) connect(*comm, kind);
  group_comm = comm;
  group_calls.emplace_back(stream, std::move(call));
  return group_depth > 0 ? ncclSuccess : end_group();
}

ncclComm* make(MPI_Comm mpi, const ncclConfig_t* config) {
  auto* comm = new ncclComm;
  comm->collective = mpi;
  MPI_Comm_dup(mpi, &comm->point_to_point);
  MPI_Comm_dup(mpi, &comm->management);
  MPI_Comm_rank(mpi, &comm->rank);
  MPI_Comm_size(mpi, &comm->size);
  MPI_Comm_rank(MPI_COMM_WORLD, &comm->adds_from);
  MPI_Bcast(&comm->adds_from, 1, MPI_INT, 0, mpi);
  comm->adds_from %= comm->size;
  comm->blocking = config == nullptr || config->blocking != 0;
  if (const char* environment = std::getenv("NCCL_COMM_BLOCKING"))  // overrides the config, as in NCCL's init.cc
    comm->blocking = std::string_view(environment) != "0";
  if (config != nullptr && config->commName != nullptr) comm->name = config->commName;
  ++emul::counters().nccl_communicators;
  proceed(*comm);
  return comm;
}

// World ranks of those that share an id, in their order: they meet at the rank that made it.
std::vector<int> meet(const ncclUniqueId& id, int ranks, int rank, int* tag) {
  int maker[2], own = 0;
  std::memcpy(maker, id.internal, sizeof(maker));
  MPI_Comm_rank(MPI_COMM_WORLD, &own);
  *tag = 20000 + maker[1] % 10000;
  std::vector<int> world(static_cast<std::size_t>(ranks), -1);
  if (own != maker[0]) {
    const int told[2] = {rank, own};
    MPI_Send(told, 2, MPI_INT, maker[0], *tag, MPI_COMM_WORLD);
    MPI_Recv(world.data(), ranks, MPI_INT, maker[0], *tag, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    return world;
  }
  world[static_cast<std::size_t>(rank)] = own;
  for (int i = 1; i < ranks; ++i) {
    int told[2];
    MPI_Recv(told, 2, MPI_INT, MPI_ANY_SOURCE, *tag, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    world[static_cast<std::size_t>(told[0])] = told[1];
  }
  for (const int w : world)
    if (w != own) MPI_Send(world.data(), ranks, MPI_INT, w, *tag, MPI_COMM_WORLD);
  return world;
}

}  // namespace

// Every thread of the program that waits for its GPU moves the transfers, which on a GPU move by themselves; so MPI
// must allow calls of several.
extern "C" int MPI_Init_thread(int* argc, char*** argv, int, int* provided) {
  return PMPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, provided);
}

extern "C" {

ncclResult_t ncclGetVersion(int* version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}
ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  static int made = 0;
  int maker[2] = {0, made++};
  MPI_Comm_rank(MPI_COMM_WORLD, &maker[0]);
  std::memset(id, 0, sizeof(*id));
  std::memcpy(id->internal, maker, sizeof(maker));
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* out, int ranks, ncclUniqueId id, int rank, ncclConfig_t* config) {
  int tag = 0;
  const std::vector<int> world = meet(id, ranks, rank, &tag);
  MPI_Group all = MPI_GROUP_NULL, group = MPI_GROUP_NULL;
  MPI_Comm mpi = MPI_COMM_NULL;
  MPI_Comm_group(MPI_COMM_WORLD, &all);
  MPI_Group_incl(all, ranks, world.data(), &group);
  MPI_Comm_create_group(MPI_COMM_WORLD, group, tag, &mpi);
  MPI_Group_free(&group);
  MPI_Group_free(&all);
  *out = make(mpi, config);
  return (*out)->blocking ? ncclSuccess : ncclInProgress;
}

// Also where the emulated GPU gets on while the host waits for something else.
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state) {
  if (comm == nullptr) return refuse(ncclInvalidArgument, "no communicator");
  // Only a little while a call is in progress: streams should lag behind the host.
  for (int i = comm->looks > 0 ? 1 : 8; i > 0 && emul::pump_once(); --i) {
  }
  *state = comm->error;
  if (*state != ncclSuccess || comm->looks == 0) return ncclSuccess;
  *state = ncclInProgress;
  if (--comm->looks == 0) enqueue_held(*comm);
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  if (const ncclResult_t bad = check_usable(comm); bad != ncclSuccess) return bad;
  comm->finalized = true;
  return proceed(*comm);
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  if (!comm->finalized || comm->looks > 0)
    return refuse(ncclInvalidUsage, comm->name + ": destroyed before ncclCommFinalize has come to its end");
  if (comm->operations > 0)
    return refuse(ncclInvalidUsage, comm->name + ": destroyed while operations of it are in streams");
  for (MPI_Comm* mpi : {&comm->collective, &comm->point_to_point, &comm->management}) MPI_Comm_free(mpi);
  delete comm;
  return ncclSuccess;
}

// Queued work ends without having done anything. The communicator stays: streams hold operations of it.
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  comm->aborted = true;
  std::fprintf(stderr, "emulated NCCL: %s aborted\n", comm->name.c_str());
  return ncclSuccess;
}

ncclResult_t ncclCommCount(ncclComm_t comm, int* ranks) {
  *ranks = comm->size;
  return check_usable(comm);
}
ncclResult_t ncclCommUserRank(ncclComm_t comm, int* rank) {
  *rank = comm->rank;
  return check_usable(comm);
}

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess:
      return "no error";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    case ncclInvalidArgument:
      return "invalid argument";
    case ncclInvalidUsage:
      return "invalid usage";
    case ncclInProgress:
      return "NCCL operation in progress";
    default:
      return "another error";
  }
}
const char* ncclGetLastError(ncclComm_t) { return last_error.c_str(); }

ncclResult_t ncclAllReduce(const void* from, void* to, std::size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream) {
  return issue(NcclKind::AllReduce, comm, from, to, count, type, op, 0, stream);
}
ncclResult_t ncclReduceScatter(const void* from, void* to, std::size_t count, ncclDataType_t type, ncclRedOp_t op,
                               ncclComm_t comm, cudaStream_t stream) {
  return issue(NcclKind::ReduceScatter, comm, from, to, count, type, op, 0, stream);
}
ncclResult_t ncclAllGather(const void* from, void* to, std::size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
  return issue(NcclKind::AllGather, comm, from, to, count, type, ncclSum, 0, stream);
}
ncclResult_t ncclSend(const void* from, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return issue(NcclKind::Send, comm, from, nullptr, count, type, ncclSum, peer, stream);
}
ncclResult_t ncclRecv(void* to, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return issue(NcclKind::Recv, comm, nullptr, to, count, type, ncclSum, peer, stream);
}

ncclResult_t ncclGroupStart() {
  ++group_depth;
  return ncclSuccess;
}
ncclResult_t ncclGroupEnd() {
  if (group_depth <= 0) return refuse(ncclInvalidUsage, "ncclGroupEnd without ncclGroupStart");
  return --group_depth > 0 ? ncclSuccess : end_group();
}

}  // extern "C"
