#include "parallel/comm/mpi_group.h"

#include <mpi.h>

#include <climits>
#include <numeric>

#include "core/check.h"
#include "parallel/comm/mpi_error.h"

namespace upcycle {
namespace {

int as_int(std::size_t n) {
  UPCYCLE_CHECK(n <= INT_MAX, "{} does not fit an MPI count", n);
  return static_cast<int>(n);
}

}  // namespace

struct MpiGroup::Handles {
  MPI_Comm comm = MPI_COMM_NULL;
  MPI_Request request = MPI_REQUEST_NULL;
  // Of the call in flight. MPI allows freeing them earlier, but some versions' non-blocking collectives did not.
  MPI_Datatype types[2] = {MPI_DATATYPE_NULL, MPI_DATATYPE_NULL};

  MPI_Datatype make_type(int which, Places places) {
    MPI_Datatype block = MPI_DATATYPE_NULL;
    UPCYCLE_MPI(MPI_Type_contiguous(as_int(places.bytes), MPI_BYTE, &block));
    UPCYCLE_MPI(MPI_Type_create_resized(block, 0, static_cast<MPI_Aint>(places.extent), &types[which]));
    UPCYCLE_MPI(MPI_Type_commit(&types[which]));
    UPCYCLE_MPI(MPI_Type_free(&block));
    return types[which];
  }
};

MpiGroup::MpiGroup(int color, int key) : mpi_(std::make_unique<Handles>()) {
  MPI_Comm& comm = mpi_->comm;
  UPCYCLE_MPI(MPI_Comm_split(MPI_COMM_WORLD, color, key, &comm));
  UPCYCLE_MPI(MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN));
  int size = 0;
  UPCYCLE_MPI(MPI_Comm_rank(comm, &rank_));
  UPCYCLE_MPI(MPI_Comm_size(comm, &size));
  std::vector<int> own(static_cast<std::size_t>(size));
  std::iota(own.begin(), own.end(), 0);
  world_ranks_.resize(own.size());
  MPI_Group members = MPI_GROUP_NULL, world = MPI_GROUP_NULL;
  UPCYCLE_MPI(MPI_Comm_group(comm, &members));
  UPCYCLE_MPI(MPI_Comm_group(MPI_COMM_WORLD, &world));
  UPCYCLE_MPI(MPI_Group_translate_ranks(members, size, own.data(), world, world_ranks_.data()));
  UPCYCLE_MPI(MPI_Group_free(&members));
  UPCYCLE_MPI(MPI_Group_free(&world));
}

MpiGroup::~MpiGroup() = default;

void MpiGroup::free() {
  if (mpi_->comm != MPI_COMM_NULL) UPCYCLE_MPI(MPI_Comm_free(&mpi_->comm));
}

void MpiGroup::all_to_all_v(const std::byte* from, const int* send_counts, const int* send_offsets, Places sent,
                            std::byte* to, const int* recv_counts, const int* recv_offsets, Places received) {
  const MPI_Datatype send_type = mpi_->make_type(0, sent), recv_type = mpi_->make_type(1, received);
  UPCYCLE_MPI(MPI_Ialltoallv(from, send_counts, send_offsets, send_type, to, recv_counts, recv_offsets, recv_type,
                             mpi_->comm, &mpi_->request));
}

void MpiGroup::all_gather(const std::byte* from, std::byte* to, std::size_t bytes) {
  const int count = as_int(bytes);
  UPCYCLE_MPI(MPI_Iallgather(from, count, MPI_BYTE, to, count, MPI_BYTE, mpi_->comm, &mpi_->request));
}

void MpiGroup::all_gather_in_place(std::byte* data, Places places) {
  UPCYCLE_MPI(
      MPI_Iallgather(MPI_IN_PLACE, 0, MPI_BYTE, data, 1, mpi_->make_type(0, places), mpi_->comm, &mpi_->request));
}

void MpiGroup::all_gather_v(const std::byte* from, std::byte* to, const int* counts, const int* offsets) {
  const void* own = from == nullptr ? MPI_IN_PLACE : from;
  const int count = from == nullptr ? 0 : counts[rank_];
  UPCYCLE_MPI(MPI_Iallgatherv(own, count, MPI_BYTE, to, counts, offsets, MPI_BYTE, mpi_->comm, &mpi_->request));
}

void MpiGroup::broadcast(std::byte* data, std::size_t bytes, int root) {
  UPCYCLE_MPI(MPI_Ibcast(data, as_int(bytes), MPI_BYTE, root, mpi_->comm, &mpi_->request));
}

void MpiGroup::barrier() { UPCYCLE_MPI(MPI_Ibarrier(mpi_->comm, &mpi_->request)); }

bool MpiGroup::test() {
  if (mpi_->request == MPI_REQUEST_NULL) return true;
  int ended = 0;
  UPCYCLE_MPI(MPI_Test(&mpi_->request, &ended, MPI_STATUS_IGNORE));
  if (ended == 0) return false;
  for (MPI_Datatype& type : mpi_->types)
    if (type != MPI_DATATYPE_NULL) UPCYCLE_MPI(MPI_Type_free(&type));
  return true;
}

}  // namespace upcycle
